//! What the guides show is true: every config in them is valid, and says so without a warning.

use bistro_common::config::parse;
use std::path::Path;

#[test]
fn every_config_of_the_guides_is_valid() {
    let guides = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides");
    let mut configs = 0;
    for entry in std::fs::read_dir(guides).expect("there are guides") {
        let path = entry.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("a guide is text");
        for block in text.split("```json\n").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            let parsed = parse(block);
            assert_eq!(parsed.problems, [], "{}", path.display());
            let config = parsed.config.expect("it is usable");
            assert!(config.jobs.iter().all(|job| job.can_run()), "{}", path.display());
            configs += 1;
        }
    }
    assert!(configs >= 5, "only {configs} configs were found");
}
