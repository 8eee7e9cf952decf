"""Every error that Ratchet raises on purpose, in one tree.

RatchetError                 exit 1
├── UsageError               exit 2   a flag, a config key, a dataset row, a prompt
│   ├── SearchSettingsError           contradictory search settings
│   ├── TaskError                     a problem or an answer the task cannot read
│   │   └── TooLongError              a problem that the policy's context cannot hold
│   └── CheckpointError               a checkpoint that may not or cannot be loaded
├── NotFoundError            exit 3   a run, round, search or model that is not there
├── BusyError                exit 5   somebody else works on the same run
├── StoreError               exit 7   a store of another version, a broken invariant
│   └── StoreAwayError                the database does not answer at the moment
└── ResourceError            exit 8   disk, memory, a device
    └── ToolError                     the process of a task's tool cannot start

A message names the value that was wrong; `fix` says the way out.
"""


class RatchetError(Exception):
    """Base of the tree: `message` says what and why, `fix` the way out."""

    exit_code = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


class UsageError(RatchetError):
    exit_code = 2


class SearchSettingsError(UsageError):
    pass


class TaskError(UsageError):
    pass


class TooLongError(TaskError):
    pass


class CheckpointError(UsageError):
    pass


class NotFoundError(RatchetError):
    exit_code = 3


class BusyError(RatchetError):
    exit_code = 5


class StoreError(RatchetError):
    exit_code = 7


class StoreAwayError(StoreError):
    pass


class ResourceError(RatchetError):
    exit_code = 8


class ToolError(ResourceError):
    pass
