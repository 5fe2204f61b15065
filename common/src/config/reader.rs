//! Reads typed values out of a [`Tree`], reporting what does not fit.
//!
//! Scalars convert freely where nothing is lost, as in the original: `"2.5"` is a number, `"off"` a
//! boolean, `7` a string. Keys that nobody asked for are reported when an object has been read.

use serde_json::Value as Json;
use std::cell::RefCell;

use super::problem::{Problem, Problems};
use super::tree::{Kind, Tree};
use crate::protocol::api::Severity;

/// One value, its path, and where to report to.
#[derive(Clone)]
pub struct Reader<'a> {
    tree: &'a Tree,
    /// The key's own place, for problems with the key rather than with its value.
    key_range: Option<std::ops::Range<usize>>,
    path: Vec<String>,
    problems: &'a Problems,
}

impl<'a> Reader<'a> {
    pub fn root(tree: &'a Tree, problems: &'a Problems) -> Self {
        Self { tree, key_range: None, path: Vec::new(), problems }
    }

    /// A value under a name of its own.
    pub fn named(name: &str, tree: &'a Tree, problems: &'a Problems) -> Self {
        Self { path: vec![name.to_owned()], ..Self::root(tree, problems) }
    }

    fn report(&self, severity: Severity, key: bool, message: String, hint: Option<String>) {
        let range = match (&self.key_range, key) {
            (Some(range), true) => range.clone(),
            _ => self.tree.range.clone(),
        };
        let path = self.path.clone();
        let range = Some(range);
        self.problems.push(Problem { severity, path, range, message, missing_key: None, hint });
    }

    pub fn error(&self, message: impl Into<String>, hint: Option<String>) {
        self.report(Severity::Error, false, message.into(), hint);
    }

    /// An error about an object as a whole points at its key, or at its first brace.
    pub fn error_key(&self, message: impl Into<String>, hint: Option<String>) {
        self.report(Severity::Error, true, message.into(), hint);
    }

    fn missing(&self, key: &'static str) {
        let range = self.key_range.clone().or_else(|| Some(self.tree.range.clone()));
        self.problems.push(Problem {
            severity: Severity::Error,
            path: self.path.clone(),
            range,
            message: format!("the key {key:?} is missing"),
            missing_key: Some(key),
            hint: None,
        });
    }

    pub fn warn(&self, message: impl Into<String>, hint: Option<String>) {
        self.report(Severity::Warning, false, message.into(), hint);
    }

    pub fn warn_key(&self, message: impl Into<String>, hint: Option<String>) {
        self.report(Severity::Warning, true, message.into(), hint);
    }

    pub fn problems(&self) -> &'a Problems {
        self.problems
    }

    pub fn json(&self) -> Json {
        self.tree.to_json()
    }

    pub fn is_object(&self) -> bool {
        matches!(self.tree.value, Kind::Object(_))
    }

    fn expected<T>(&self, what: &str) -> Option<T> {
        self.error(format!("expected {what}, found {}", self.tree.describe()), None);
        None
    }

    pub fn object(&self) -> Option<ObjectReader<'a>> {
        match &self.tree.value {
            Kind::Object(_) => {
                Some(ObjectReader { reader: self.clone(), asked: RefCell::default() })
            }
            _ => self.expected("an object"),
        }
    }

    /// The value under a key of this object, without asking for it.
    pub fn child(&self, key: &str) -> Option<Reader<'a>> {
        let Kind::Object(members) = &self.tree.value else {
            return None;
        };
        let member = members.iter().find(|member| member.key == key)?;
        Some(self.at(&member.key, Some(member.key_range.clone()), &member.value))
    }

    fn at(&self, key: &str, key_range: Option<std::ops::Range<usize>>, tree: &'a Tree) -> Self {
        let mut path = self.path.clone();
        path.push(key.to_owned());
        Reader { tree, key_range, path, problems: self.problems }
    }

    pub fn items(&self) -> Option<Vec<Reader<'a>>> {
        match &self.tree.value {
            Kind::Array(items) => Some(
                items.iter().enumerate().map(|(i, t)| self.at(&i.to_string(), None, t)).collect(),
            ),
            _ => self.expected("an array"),
        }
    }

    pub fn string(&self) -> Option<String> {
        match &self.tree.value {
            Kind::Scalar(Json::String(text)) => Some(text.clone()),
            Kind::Scalar(scalar @ (Json::Number(_) | Json::Bool(_))) => Some(scalar.to_string()),
            _ => self.expected("a string"),
        }
    }

    pub fn strings(&self) -> Option<Vec<String>> {
        let items = self.items()?;
        let strings: Vec<_> = items.iter().filter_map(Reader::string).collect();
        (strings.len() == items.len()).then_some(strings)
    }

    pub fn bool(&self) -> Option<bool> {
        let value = match &self.tree.value {
            Kind::Scalar(Json::Bool(value)) => Some(*value),
            Kind::Scalar(Json::Number(number)) => match number.as_f64() {
                Some(0.0) => Some(false),
                Some(1.0) => Some(true),
                _ => None,
            },
            Kind::Scalar(Json::String(text)) => match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
                "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        };
        value.or_else(|| self.expected("true or false"))
    }

    pub fn int(&self) -> Option<i64> {
        const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
        let whole = |f: f64| (f.fract() == 0.0 && f.abs() <= WHOLE_MAX).then_some(f as i64);
        let value = match &self.tree.value {
            Kind::Scalar(Json::Number(number)) => {
                number.as_i64().or_else(|| number.as_f64().and_then(whole))
            }
            Kind::Scalar(Json::String(text)) => {
                let text = text.trim();
                text.parse().ok().or_else(|| text.parse().ok().and_then(whole))
            }
            Kind::Scalar(Json::Bool(value)) => Some(i64::from(*value)),
            _ => None,
        };
        value.or_else(|| self.expected("a whole number"))
    }

    pub fn float(&self) -> Option<f64> {
        let value = match &self.tree.value {
            Kind::Scalar(Json::Number(number)) => number.as_f64(),
            Kind::Scalar(Json::String(text)) => text.trim().parse().ok(),
            Kind::Scalar(Json::Bool(value)) => Some(f64::from(u8::from(*value))),
            _ => None,
        };
        value.filter(|f| f.is_finite()).or_else(|| self.expected("a number"))
    }

    /// One of a few words; the error lists them.
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = did_you_mean(&text, &names);
        self.error(format!("unknown value {text:?}; expected one of {}", names.join(", ")), hint);
        None
    }
}

/// An object whose keys are ticked off as they are read.
pub struct ObjectReader<'a> {
    reader: Reader<'a>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> ObjectReader<'a> {
    pub fn get(&self, key: &'static str) -> Option<Reader<'a>> {
        #[cfg(test)]
        assert!(
            super::reference::KEYS.iter().any(|documented| documented.name == key),
            "the key {key:?} is not in the reference"
        );
        self.asked.borrow_mut().push(key);
        self.reader.child(key)
    }

    pub fn required(&self, key: &'static str) -> Option<Reader<'a>> {
        let found = self.get(key);
        if found.is_none() {
            self.reader.missing(key);
        }
        found
    }

    /// All keys and values in the order of the file; for objects whose keys are names.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Reader<'a>)> + '_ {
        let members: &'a [_] = match &self.reader.tree.value {
            Kind::Object(members) => members,
            _ => &[],
        };
        members.iter().map(|member| {
            let reader = self.reader.at(&member.key, Some(member.key_range.clone()), &member.value);
            (member.key.as_str(), reader)
        })
    }

    /// A key that is understood, and that a scheduler which follows change does not need.
    pub fn obsolete(&self, key: &'static str, why: &str) {
        if let Some(value) = self.get(key) {
            value.warn_key(format!("{key:?} has no effect: {why}"), None);
        }
    }

    /// Warns about every key that was not asked for.
    pub fn finish(&self) {
        let asked = self.asked.borrow();
        for (key, entry) in self.entries() {
            if !asked.contains(&key) {
                let hint = did_you_mean(key, &asked);
                entry.warn_key(format!("unknown key {key:?} is ignored"), hint);
            }
        }
    }
}

/// The nearest of `candidates`, as a hint, if one is near.
pub fn did_you_mean(text: &str, candidates: &[&str]) -> Option<String> {
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(text, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .min()
        .map(|(_, candidate)| format!("did you mean {candidate:?}?"))
}
