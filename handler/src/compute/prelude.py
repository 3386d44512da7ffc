import sys
from crate import client


def eprint(*args, **kwargs):
    print(*args, file=sys.stderr, **kwargs)


host, port, username, password = sys.argv[1:5]
connection = client.connect(f"http://{host}:{port}", username=username, password=password)
cursor = connection.cursor()
