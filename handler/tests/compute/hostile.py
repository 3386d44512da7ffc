# What a hostile notebook tries, one attempt by its name in `what`; parameters say where things are. It prints a line
# with BREACH when it got what it must not have.
import ctypes, os, resource, signal, socket, time

given = dict(argument.split("=", 1) for argument in sys.argv[5:])
libc = ctypes.CDLL(None, use_errno=True)


def tries(name, attempt, harmless=lambda got: False):
    try:
        got = attempt()
    except Exception as error:
        print("refused", name, type(error).__name__, getattr(error, "errno", ""))
    else:
        print("harmless" if harmless(got) else "BREACH", name, repr(got)[:200])


def call(number_or_function, *arguments):
    result = number_or_function(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def read(path):
    with open(path, "rb") as file:
        return file.read(200)


def fork_bomb():
    while True:
        try:
            os.fork()
        except OSError:
            pass


def thread_bomb():
    import threading

    while True:
        try:
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        except (RuntimeError, MemoryError):
            pass


def endless_output():
    while True:
        print("x" * 1000)


def endless_complaint():
    while True:
        eprint("x" * 1000)


def endless_loop():
    while True:
        pass


def loop_in_many():
    for _ in range(8):
        if os.fork() == 0:
            endless_loop()
    time.sleep(1000)


def ignores_signals():
    for number in range(1, signal.NSIG):
        try:
            signal.signal(number, signal.SIG_IGN)
        except OSError:
            pass
    while True:
        time.sleep(1000)


def allocates():
    bytearray(100 << 30)


def allocates_shared():
    import mmap

    memory = mmap.mmap(-1, 4 << 30)
    for at in range(0, 4 << 30, 4096):
        memory[at] = 1


def allocates_in_many():
    for _ in range(16):
        if os.fork() == 0:
            kept = b"x" * (100 << 20)
            time.sleep(1000)
    time.sleep(1000)


def writes_many_files():
    for number in range(10**6):
        open(f"file{number}", "w").close()


def writes_much():
    with open("large", "wb") as file:
        while True:
            file.write(b"x" * (1 << 20))


def writes_much_in_pieces():
    for number in range(10**6):
        with open(f"file{number}", "wb") as file:
            file.write(b"x" * (8 << 20))


def nests_directories():
    for _ in range(10**6):
        os.mkdir("d")
        os.chdir("d")


def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            while True:
                time.sleep(1000)
        os._exit(0)
    time.sleep(0.3)
    print("the first is done")


def reads():
    for path in given["secrets"].split("|"):
        tries(path, lambda: read(path))
    for folder in [given["data_dir"], os.path.dirname(given["data_dir"])]:
        tries(folder, lambda: os.listdir(folder), harmless=lambda got: got == [])
        for below, _, files in os.walk(folder):
            for file in files:
                path = os.path.join(below, file)
                if not path.startswith(os.getcwd()):
                    tries(path, lambda: read(path))
    own = os.getpid()
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        pids = [1, os.getppid(), int(given["handler_pid"])]
    for pid in pids:
        if pid != own:
            tries(f"environ of {pid}", lambda: read(f"/proc/{pid}/environ"))
            tries(f"memory of {pid}", lambda: read(f"/proc/{pid}/mem"))
    handler = given["handler_pid"]
    for name in ["environ", "cmdline", "mem", "maps", "root/etc/passwd", "cwd"]:
        tries(f"{name} of the handler", lambda: read(f"/proc/{handler}/{name}"), harmless=lambda got: int(handler) == own)


def writes():
    for path in given["outside"].split("|"):
        tries(path, lambda: open(path, "w").write("breach"))
    for path in ["/usr/breach", "/etc/breach", "/breach", "/dev/breach", "/proc/breach", sys.prefix + "/breach"]:
        tries(path, lambda: open(path, "w").write("breach"))
    tries("a link", lambda: os.link(sys.executable, "link"))
    tries("the interpreter", lambda: os.chmod(os.path.realpath(sys.executable), 0o777))
    tries("a device", lambda: os.mknod("disk", 0o60666, os.makedev(8, 0)))


def connects():
    for port in given["ports"].split("|"):
        for host in ["127.0.0.1", "::1", "localhost"]:
            tries(f"{host} {port}", lambda: socket.create_connection((host, int(port)), 1))
        kinds = [(socket.AF_INET, socket.SOCK_STREAM, 262), (socket.AF_INET, socket.SOCK_STREAM, 132)]
        for kind in kinds:
            tries(f"{kind} {port}", lambda: socket.socket(*kind).connect(("127.0.0.1", int(port))))
        fast = socket.socket()
        tries(f"by sending {port}", lambda: fast.sendto(b"GET / HTTP/1.0\r\n\r\n", 0x20000000, ("127.0.0.1", int(port))))
    kinds = {
        "UDP": (socket.AF_INET, socket.SOCK_DGRAM, 0),
        "UDP 6": (socket.AF_INET6, socket.SOCK_DGRAM, 0),
        "raw": (socket.AF_INET, socket.SOCK_RAW, 1),
        "raw 6": (socket.AF_INET6, socket.SOCK_RAW, 58),
        "ping": (socket.AF_INET, socket.SOCK_DGRAM, 1),
        "packet": (17, socket.SOCK_RAW, 768),
        "old packet": (socket.AF_INET, 10, 768),
        "netlink": (16, socket.SOCK_RAW, 0),
        "unix": (socket.AF_UNIX, socket.SOCK_STREAM, 0),
        "vsock": (40, socket.SOCK_STREAM, 0),
        "alg": (38, 5, 0),
    }
    for name, kind in kinds.items():
        tries(name, lambda: socket.socket(*kind))
    listening = socket.socket()
    tries("a port of its own", lambda: (listening.bind(("127.0.0.1", int(given["free_port"]))), listening.listen()))


def is_somebody_else():
    import base64, http.client

    def asks(method, path, user, secret, body=None):
        request = http.client.HTTPConnection(host, int(port), timeout=5)
        login = base64.b64encode(f"{user}:{secret}".encode()).decode()
        request.request(method, path, body, {"Authorization": f"Basic {login}"})
        answer = request.getresponse()
        return answer.status, answer.read(200)

    refused = lambda got: got[0] in (401, 403, 404)
    statement = '{"stmt": "select current_user"}'
    for user, secret in [("crate", ""), ("crate", "crate"), (username, ""), (username, password[:-1]), ("", "")]:
        tries(f"{user} {secret[:3]}", lambda: asks("POST", "/_sql", user, secret, statement), refused)
    for method, path in [
        ("GET", "/compute/list"),
        ("POST", "/compute/hostile"),
        ("DELETE", "/compute/hostile"),
        ("POST", "/upload?table=t&type=generic"),
        ("GET", "/metrics"),
        ("GET", "/-/capabilities"),
    ]:
        tries(path, lambda: asks(method, path, username, password), refused)
    status, answer = asks("POST", "/_sql", username, password, statement)
    print(status, answer.decode())


def looks_into_the_handler():
    handler = int(given["handler_pid"])
    attach, peek = 16, 1
    # In names of its own the handler's number may be its own number, or nobody's.
    others = [pid for pid in (handler, os.getppid()) if pid not in (0, os.getpid())]
    for pid in others:
        tries(f"ptrace {pid}", lambda: call(libc.ptrace, attach, pid, 0, 0))
        tries(f"signal to {pid}", lambda: os.kill(pid, signal.SIGCONT))
        buffer = ctypes.create_string_buffer(8)
        vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
        tries(f"memory of {pid}", lambda: call(libc.process_vm_readv, pid, vector, 1, vector, 1, 0))
    tries("ptrace at all", lambda: call(libc.ptrace, 0, 0, 0, 0))


def takes_rights():
    tries("root", lambda: os.setuid(0))
    tries("a user's names", lambda: call(libc.unshare, 0x10000000))
    tries("mounts", lambda: call(libc.mount, b"none", b"/", b"tmpfs", 0, 0))
    tries("a root", lambda: os.chroot("."))
    tries("memory in a file", lambda: os.memfd_create("x"))
    tries("shared memory", lambda: call(libc.shmget, 0, 1 << 20, 0o1600))
    for limit in [resource.RLIMIT_NPROC, resource.RLIMIT_DATA, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE]:
        tries(f"limit {limit}", lambda: resource.setrlimit(limit, (1 << 40, 1 << 40)))
    tries("an end of its own", lambda: call(libc.prctl, 1, 0, 0, 0, 0))
    tries("new privileges", lambda: libc.prctl(39, 0, 0, 0, 0), harmless=lambda got: got == 1)
    tries("open files of the handler", lambda: [fd for fd in range(3, 64) if is_open(fd)], harmless=lambda got: got == [])
    tries("a terminal", lambda: open("/dev/tty"))


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    try:
        # The connection that the prelude made.
        return socket.socket(fileno=os.dup(fd)).getpeername()[1] != int(port)
    except OSError:
        return True


globals()[given["what"]]()
