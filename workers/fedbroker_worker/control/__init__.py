"""Control of a running silo by its administrator: a Unix socket and its protocol.

Modules: ``address`` and ``listening`` (the socket), ``views`` and ``protocol`` (the messages), ``server`` and
``client``, ``commands`` (the service's answers), ``pausing`` (a pause that outlives the process).
"""
