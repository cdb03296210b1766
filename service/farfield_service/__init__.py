"""The Farfield server: validate, admit, queue, hand to workers, reply."""
