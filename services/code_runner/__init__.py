"""The code runner: runs programs that nobody has read, apart from the services that want to know how they end."""
