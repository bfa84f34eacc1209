"""One folder per task; the folder's name is what a config writes under `task.name`."""
