"""What a server must bear for hours, proved in minutes: load, memory, damaged requests and changes under load."""
