"""The shell of pages: who may open them, headers, files, server-sent events, the server. Needs the extra ``board``."""
