# Lists the recipes.
default:
    @just --list

# The main job on real data.
demo *args:
    scripts/demo {{args}}

# Sets up and runs the whole test suite.
test *args:
    scripts/test {{args}}

# Formatting and lints.
lint:
    scripts/lint

# Formats everything.
fmt:
    cargo fmt --all

# The API documentation of our crates.
docs:
    cargo doc --workspace --no-deps --open

# What CI runs.
ci:
    .ci/run
