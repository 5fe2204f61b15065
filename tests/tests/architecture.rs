//! The edges between crates, as the design draws them.

use serde_json::Value;
use std::collections::BTreeSet;

use bistro_tests::packages;

/// What a package needs in a normal build with its default features.
fn dependencies(package: &Value) -> BTreeSet<&str> {
    let all = package["dependencies"].as_array().expect("a list of dependencies");
    let normal = all.iter().filter(|d| d["kind"].is_null() && d["optional"] == false);
    normal.filter_map(|d| d["name"].as_str()).collect()
}

fn package<'a>(packages: &'a [Value], name: &str) -> &'a Value {
    packages.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("no package {name}"))
}

#[test]
fn cores_reach_no_network_no_disk_and_no_runtime() {
    let packages = packages(&["--no-deps"]);
    let forbidden = ["tokio", "async-nats", "redb", "rand", "nix"];
    for name in ["bistro-core", "bistro-worker-core", "bistro-common"] {
        let dependencies = dependencies(package(&packages, name));
        let found: Vec<_> = forbidden.iter().filter(|f| dependencies.contains(*f)).collect();
        assert!(found.is_empty(), "{name} depends on {found:?}");
    }
}

#[test]
fn cores_depend_on_common_and_on_no_other_crate_of_ours() {
    let packages = packages(&["--no-deps"]);
    for name in ["bistro-core", "bistro-worker-core"] {
        let core = package(&packages, name);
        let ours: Vec<_> =
            dependencies(core).into_iter().filter(|d| d.starts_with("bistro")).collect();
        assert_eq!(ours, ["bistro-common"], "{name}");
        // The contract's connection to NATS stays out of their reach.
        let all = core["dependencies"].as_array().expect("a list of dependencies");
        let common = all.iter().find(|d| d["name"] == "bistro-common").expect("just found");
        assert_eq!(common["features"], serde_json::json!([]), "{name}");
    }
}

#[test]
fn nothing_depends_on_the_tests() {
    for package in packages(&["--no-deps"]) {
        assert!(!dependencies(&package).contains("bistro-tests"), "{}", package["name"]);
    }
}
