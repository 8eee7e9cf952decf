"""Pure tree search: states, options, trees and the rules that grow them. No I/O, no models."""
