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

# Writes the generated pages of docs/reference anew.
docs-update:
    UPDATE_DOCS=1 cargo test --quiet -p bistro-common -p bistro the_page_is_up_to_date

# Accepts the console's screens as they are now (look at the diff).
screens-update:
    INSTA_UPDATE=always cargo test --quiet -p bistro every_view

# The protocol through faults: `just sim run --seeds 20000`, `just sim mutants`.
sim *args:
    scripts/sim {{args}}

# A real cell through faults: `just chaos --seconds 60 --seed 1`, `just chaos --matrix`.
chaos *args:
    scripts/chaos {{args}}

# Fuzzes what is parsed from outside: `just fuzz config 60`.
fuzz *args:
    scripts/fuzz {{args}}

# Measures what docs/performance.md says, on this machine.
bench *args:
    scripts/bench {{args}}

# What CI runs.
ci:
    .ci/run
