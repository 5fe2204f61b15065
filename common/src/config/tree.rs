//! JSON with the place of every value, so that a problem found late still knows where it is.

use jsonc_parser::ast::{ObjectPropName, Value as Ast};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::Value as Json;
use std::ops::Range;

use super::problem::Problem;
use crate::protocol::api::Severity;

/// A JSON value and its byte range in the text.
#[derive(Debug)]
pub struct Tree {
    pub range: Range<usize>,
    pub value: Kind,
}

#[derive(Debug)]
pub enum Kind {
    /// Anything without children.
    Scalar(Json),
    Array(Vec<Tree>),
    Object(Vec<Member>),
}

#[derive(Debug)]
pub struct Member {
    pub key: String,
    pub key_range: Range<usize>,
    pub value: Tree,
}

/// JSON plus comments and trailing commas, and nothing else.
const OPTIONS: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_trailing_commas: true,
    allow_loose_object_property_names: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

impl Tree {
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let parsed = parse_to_ast(text, &CollectOptions::default(), &OPTIONS).map_err(|error| {
            let range = error.range();
            syntax(range.start..range.end, error.kind().to_string())
        })?;
        let ast = parsed.value.ok_or_else(|| syntax(0..0, "the file is empty".to_owned()))?;
        convert(&ast)
    }

    /// The value without its places.
    pub fn to_json(&self) -> Json {
        match &self.value {
            Kind::Scalar(scalar) => scalar.clone(),
            Kind::Array(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Kind::Object(members) => {
                Json::Object(members.iter().map(|m| (m.key.clone(), m.value.to_json())).collect())
            }
        }
    }

    /// What the value is, for "expected X, found Y".
    pub fn describe(&self) -> String {
        match &self.value {
            Kind::Scalar(Json::Null) => "null".to_owned(),
            Kind::Scalar(Json::String(text)) => format!("the string {text:?}"),
            Kind::Scalar(scalar) => scalar.to_string(),
            Kind::Array(_) => "an array".to_owned(),
            Kind::Object(_) => "an object".to_owned(),
        }
    }
}

fn syntax(range: Range<usize>, message: String) -> Problem {
    Problem {
        severity: Severity::Error,
        path: Vec::new(),
        range: Some(range),
        message,
        missing_key: None,
        hint: None,
    }
}

fn convert(ast: &Ast<'_>) -> Result<Tree, Problem> {
    let range = ast.range();
    let range = range.start..range.end;
    let value = match ast {
        Ast::StringLit(literal) => Kind::Scalar(Json::String(literal.value.to_string())),
        Ast::BooleanLit(literal) => Kind::Scalar(Json::Bool(literal.value)),
        Ast::NullKeyword(_) => Kind::Scalar(Json::Null),
        Ast::NumberLit(literal) => {
            let number = serde_json::from_str::<serde_json::Number>(literal.value)
                .map_err(|error| syntax(range.clone(), format!("bad number: {error}")))?;
            Kind::Scalar(Json::Number(number))
        }
        Ast::Array(array) => {
            Kind::Array(array.elements.iter().map(convert).collect::<Result<_, _>>()?)
        }
        Ast::Object(object) => {
            let mut members: Vec<Member> = Vec::with_capacity(object.properties.len());
            let mut seen = std::collections::HashSet::new();
            for property in &object.properties {
                let (key, key_range) = match &property.name {
                    ObjectPropName::String(name) => (name.value.to_string(), name.range),
                    ObjectPropName::Word(name) => (name.value.to_owned(), name.range),
                };
                let key_range = key_range.start..key_range.end;
                if !seen.insert(key.clone()) {
                    return Err(syntax(key_range, format!("the key {key:?} is here twice")));
                }
                members.push(Member { key, key_range, value: convert(&property.value)? });
            }
            Kind::Object(members)
        }
    };
    Ok(Tree { range, value })
}
