"""One task instance and its Sim run: start or re-attach, input, output, result, usage, lineage."""
