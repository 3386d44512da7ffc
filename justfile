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

# One of the scripts in benches (memory, end_to_end, queries, statements, metrics, notebook); builds the release first.
bench script *args:
    python3 benches/{{script}}.py {{args}}

# The parts beside their peers: CSV and the exposition.
bench-parts *args:
    cargo bench --manifest-path benches/Cargo.toml {{args}}

# The API documentation.
doc:
    cargo doc --workspace --no-deps --open

# Strange bytes for one target, for ten minutes: csv, json, exposition, web_config or sql; see fuzz/README.md.
fuzz target *args="-max_total_time=600":
    cargo +nightly fuzz run --fuzz-dir fuzz {{ if target == "sql" { "--features sql" } else { "" } }} {{target}} -s none -- \
        -dict=fuzz/dictionaries/{{target}}.txt -max_len=4096 -timeout=60 -rss_limit_mb=2048 {{args}}
