"""A program for inside of a network namespace: listens at a port and gives the socket out.

The socket belongs to the namespace that it was made in, whoever holds it. So a process outside can
accept what connects inside, and nothing of the relay runs where the code does.
"""

LISTEN = """
import os, socket, sys
port, fd, *command = sys.argv[1:]
listener = socket.create_server(("127.0.0.1", int(port)), backlog=128)
with socket.socket(fileno=int(fd)) as out:
    socket.send_fds(out, [b"l"], [listener.fileno()])
listener.close()
try:
    os.execvp(command[0], command)
except OSError as error:
    sys.exit(f"{command[0]}: {error.strerror}")
"""
"""Arguments: the port, the number of the Unix socket to send it by, the command to become."""
