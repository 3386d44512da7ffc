# The project's chores. `just` lists them.

# What the project promises, in one go: tests, format, lint, dependencies.
ci:
    .ci/run

# The tests: `just test`, or one package: `just test -p costream-exporter`.
test *args="--workspace":
    cargo test {{args}}

# The main job on the shipped sample, once.
run *args="--once":
    cargo run -- run {{args}}

# Formats everything.
fmt:
    cargo fmt --all

# Lints as CI does: warnings are errors.
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Bans, licences and sources of dependencies.
deny:
    cargo deny check bans licenses sources

# Known vulnerabilities; reaches the advisory database over the network.
advisories:
    cargo deny check advisories

# The binary for images and benchmarks; takes long.
release:
    cargo build --release --workspace

# Peak memory of a run, by rows and by sources; builds the release first.
memory *args:
    python3 benches/memory.py {{args}}

# The API documentation.
doc:
    cargo doc --workspace --no-deps --open
