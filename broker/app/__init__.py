"""The daemon as a program: twistd's plugin, the command line, start and stop."""
