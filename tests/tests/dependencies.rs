//! What we build on: licences, sources and crates we do not want, as deny.toml has them.

use bistro_tests::packages;

const POLICY: &str = include_str!("../../deny.toml");

/// The texts of a list of the policy.
fn list(name: &str) -> Vec<&'static str> {
    let start = POLICY.find(&format!("\n{name} = [")).expect("the policy has this list");
    let end = POLICY[start..].find(']').expect("the list ends") + start;
    POLICY[start..end].split('"').skip(1).step_by(2).collect()
}

/// Does an SPDX expression leave us a way that is allowed?
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let expression = expression.replace('/', " OR ");
    expression.split(" AND ").all(|part| {
        let part = part.trim_matches(['(', ')', ' ']);
        part.split(" OR ").any(|license| allowed.contains(&license.trim()))
    })
}

#[test]
fn expressions_are_understood() {
    let allowed = ["MIT", "Unicode-3.0"];
    for good in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-3.0) AND Unicode-3.0"] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "", "MIT-0"] {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}

#[test]
fn every_dependency_is_licensed_known_and_wanted() {
    let (allowed, banned) = (list("allow"), list("deny"));
    assert!(allowed.contains(&"MIT") && banned.contains(&"openssl"), "the policy is read");
    for package in packages(&[]) {
        let name = package["name"].as_str().expect("packages have names");
        let license = package["license"].as_str().unwrap_or("");
        assert!(is_allowed(license, &allowed), "{name} has the licence {license:?}");
        assert!(!banned.contains(&name), "{name} is not wanted");
        let source = package["source"].as_str();
        let known = source.is_none_or(|source| source.starts_with("registry+"));
        assert!(known, "{name} comes from {source:?}");
    }
}

#[test]
fn there_is_one_nats_client_and_one_terminal_library() {
    for name in ["async-nats", "tokio", "crossterm", "ratatui", "redb", "rustix"] {
        let versions = packages(&[]).iter().filter(|package| package["name"] == name).count();
        assert_eq!(versions, 1, "{name}");
    }
}
