# Recipes for daily work; `just ci` is the whole of CI.

# Lists the recipes.
default:
    @just --list

# Everything that a change must pass.
ci:
    .ci/run

# All tests; arguments select some: `just test rename`.
test *args:
    scripts/test {{args}}

# Flips bits of stores in random places, and checks, opens and repairs them: `just flips 10000 7`.
flips count="10000" seed="1":
    LARDER_TEST_CASES={{count}} LARDER_TEST_SEED={{seed}} cargo test --locked --test check -- --nocapture a_flipped_bit_anywhere

# Looks for bytes that a reader cannot stand: `just fuzz frame 3600`, and `just fuzz --keep` afterwards.
fuzz *args:
    scripts/fuzz {{args}}

# Figures beside a null filesystem and plain ext4, as root: `just bench --quick --only stat`.
bench *args:
    scripts/bench {{args}}

# pjdfstest and fsx on Larder and on ext4, as root.
conformance *args:
    scripts/conformance {{args}}

# Formats the source, then lints it as CI does.
fmt:
    cargo fmt --all
    cargo fmt --manifest-path fuzz/Cargo.toml
    cargo clippy --locked --all-targets --all-features -- -D warnings
