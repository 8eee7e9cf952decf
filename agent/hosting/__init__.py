"""Where the models live: in this process or in Ray actors."""
