"""The part of TriSlim that knows no task: training, compression, export and deployment."""
