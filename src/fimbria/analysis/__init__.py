"""Why a verdict is what it is: offline, importable, without root, kernel or cluster."""
