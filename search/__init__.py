"""Pure tree search: states, options, trees and the rules that grow them. No models.

No I/O either, but for `docstrings`, which reads the source of the classes that it is asked of.
"""
