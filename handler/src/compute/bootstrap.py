# The first that a run's interpreter does. It reads from standard input, which is the handler's socket, what nobody
# else is to see, and then runs the notebook as `python3 <file> <host> <port> <user> <password> name=value ...` would.
def _begin():
    import json, os, sys

    def exactly(length):
        parts = []
        while length > 0:
            part = os.read(0, min(length, 1 << 20))
            if not part:
                sys.exit("the handler is gone")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    run = json.loads(exactly(int.from_bytes(exactly(4), "big")))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.closerange(3, max(os.sysconf("SC_OPEN_MAX"), 4096))
    for folder in ("tmp", ".packages"):
        os.makedirs(folder, exist_ok=True)
    # It has been looked for packages in a folder that was not there.
    sys.path_importer_cache.clear()
    sys.argv = [os.path.join(os.getcwd(), run["file"]), *run["args"]]
    sys.path[0] = os.getcwd()
    # A line that is printed is on its way.
    sys.stdout.reconfigure(line_buffering=True)

    notebook = sys.modules["__main__"].__dict__
    for name in [name for name in notebook if not name.startswith("__")]:
        del notebook[name]
    notebook["__file__"] = sys.argv[0]
    # With the code in its file, a traceback shows its lines, by their own numbers.
    cells = []
    for name, code in run["cells"]:
        path = os.path.join(os.getcwd(), name)
        with open(path, "wb") as file:
            file.write(code.encode())
        cells.append((path, code))

    def magic(path, code, error):
        lines = code.splitlines()
        line = lines[error.lineno - 1].strip() if error.lineno and error.lineno <= len(lines) else ""
        if run["cells_of_ipynb"] and line[:1] in ("%", "!"):
            where = f"{os.path.basename(path)} line {error.lineno}"
            sys.exit(f"{where}: {line!r} is IPython's and no Python: magics (%) and shell commands (!) are not run here")

    try:
        begun = []
        for path, code in cells:
            try:
                begun.append(compile(code.encode(), path, "exec", dont_inherit=True))
            except SyntaxError as error:
                magic(path, code, error)
                raise error.with_traceback(None)
        exec(compile(run["prelude"], "<prelude>", "exec", dont_inherit=True), notebook)
        for cell in begun:
            exec(cell, notebook)
    except SystemExit:
        raise
    except BaseException as error:
        # Without our own lines.
        error = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
        sys.excepthook(type(error), error, error.__traceback__)
        try:
            sys.stdout.flush()
        finally:
            sys.exit(1)


_begin()
