"""Values of a computation: arguments, data handles, the operations and outputs of work items, and results."""
