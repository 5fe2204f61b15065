//! Which nodes of a level a job runs on (reference, section 6.6).

use regex::Regex;
use std::collections::BTreeSet;

use super::reader::Reader;

/// All conditions must hold; an empty one always does.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    whitelist: BTreeSet<String>,
    blacklist: BTreeSet<String>,
    whitelist_regex: Option<Regex>,
    blacklist_regex: Option<Regex>,
    tag_whitelist: BTreeSet<String>,
    fraction_of_nodes: Option<f64>,
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        let pattern = |regex: &Option<Regex>| regex.as_ref().map(|r| r.as_str().to_owned());
        self.whitelist == other.whitelist
            && self.blacklist == other.blacklist
            && pattern(&self.whitelist_regex) == pattern(&other.whitelist_regex)
            && pattern(&self.blacklist_regex) == pattern(&other.blacklist_regex)
            && self.tag_whitelist == other.tag_whitelist
            && self.fraction_of_nodes == other.fraction_of_nodes
    }
}

impl Filter {
    /// `None` after an error: the filter is dropped as a whole.
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        let errors = reader.problems().error_count();
        let object = reader.object()?;
        let set = |key| {
            let list = object.get(key).and_then(|r| r.strings()).unwrap_or_default();
            list.into_iter().collect::<BTreeSet<_>>()
        };
        let filter = Self {
            whitelist: set("whitelist"),
            blacklist: set("blacklist"),
            whitelist_regex: object.get("whitelist_regex").and_then(|r| read_regex(&r)),
            blacklist_regex: object.get("blacklist_regex").and_then(|r| read_regex(&r)),
            tag_whitelist: set("tag_whitelist"),
            fraction_of_nodes: object.get("fraction_of_nodes").and_then(|r| read_fraction(&r)),
        };
        object.finish();
        (reader.problems().error_count() == errors).then_some(filter)
    }

    /// Only what restricts something.
    pub(super) fn export(&self) -> serde_json::Value {
        let mut filter = serde_json::Map::new();
        let sets = [
            ("whitelist", &self.whitelist),
            ("blacklist", &self.blacklist),
            ("tag_whitelist", &self.tag_whitelist),
        ];
        for (key, set) in sets.into_iter().filter(|(_, set)| !set.is_empty()) {
            filter.insert(key.to_owned(), serde_json::json!(set));
        }
        let patterns = [
            ("whitelist_regex", &self.whitelist_regex),
            ("blacklist_regex", &self.blacklist_regex),
        ];
        for (key, regex) in patterns {
            if let Some(regex) = regex {
                filter.insert(key.to_owned(), regex.as_str().into());
            }
        }
        if let Some(fraction) = self.fraction_of_nodes {
            filter.insert("fraction_of_nodes".to_owned(), fraction.into());
        }
        serde_json::Value::Object(filter)
    }

    /// The names that it lists, if no other can pass.
    pub fn listed(&self) -> Option<impl Iterator<Item = &str>> {
        (!self.whitelist.is_empty()).then(|| self.whitelist.iter().map(String::as_str))
    }

    /// Does what passes depend on the name of the job?
    pub fn depends_on_job(&self) -> bool {
        self.fraction_of_nodes.is_some()
    }

    /// Does the job run below (or on) this node, as far as this level is concerned?
    pub fn passes(&self, node: &str, tags: &BTreeSet<String>, job: &str) -> bool {
        (self.whitelist.is_empty() || self.whitelist.contains(node))
            && !self.blacklist.contains(node)
            && self.whitelist_regex.as_ref().is_none_or(|regex| regex.is_match(node))
            && !self.blacklist_regex.as_ref().is_some_and(|regex| regex.is_match(node))
            && (self.tag_whitelist.is_empty() || !self.tag_whitelist.is_disjoint(tags))
            && self.fraction_of_nodes.is_none_or(|fraction| in_fraction(node, job, fraction))
    }
}

fn read_regex(reader: &Reader<'_>) -> Option<Regex> {
    let pattern = reader.string()?;
    if pattern.is_empty() {
        return None;
    }
    Regex::new(&pattern)
        .map_err(|error| {
            reader.error(
                format!("bad regular expression: {error}"),
                Some("look-around and back-references are not supported".to_owned()),
            );
        })
        .ok()
}

fn read_fraction(reader: &Reader<'_>) -> Option<f64> {
    let fraction = reader.float()?;
    if fraction > 1.0 {
        reader.error("a fraction of nodes cannot be greater than 1", None);
    }
    // As in the original, nothing or less means "no restriction".
    (0.0 < fraction && fraction < 1.0).then_some(fraction)
}

/// The same for ever, for a node and a job: a larger fraction contains every smaller one.
fn in_fraction(node: &str, job: &str, fraction: f64) -> bool {
    // FNV-1a over both names, with a byte between them that no name contains.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in node.bytes().chain([0xff]).chain(job.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // FNV's upper bits mix slowly; this finaliser is SplitMix64's.
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    (hash as f64) < fraction * 2f64.powi(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_nested_and_about_right() {
        let chosen = |fraction: f64, job: &str| {
            (0..10_000).filter(|i| in_fraction(&format!("n{i}"), job, fraction)).collect::<Vec<_>>()
        };
        let (small, large) = (chosen(0.2, "a"), chosen(0.5, "a"));
        assert!(small.iter().all(|node| large.contains(node)));
        assert!((1_800..2_200).contains(&small.len()), "{}", small.len());
        assert_ne!(small, chosen(0.2, "b"));
    }
}
