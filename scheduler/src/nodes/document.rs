//! The sources `file`, `http` and `nats_kv`: names or a tree in a text of its own.

use std::io::Read;
use std::path::Path;

use bistro_common::config::{LevelIx, ManualNode, Source, parse_tree};
use bistro_core::ForestBuilder;

use crate::documents::{BYTES_MAX, DocumentError};

use super::{SourceError, manual, names};

#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("{path} cannot be read: {source}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} has more than {BYTES_MAX} bytes")]
    TooLong { path: String },
    #[error(transparent)]
    Fetch(#[from] DocumentError),
    #[error("{0}")]
    Content(String),
}

/// What a text says.
#[derive(Clone, Debug)]
pub enum Content {
    Names(Vec<String>),
    Tree(Vec<ManualNode>),
}

pub fn read_file(path: &str) -> Result<String, ContentError> {
    let mut text = String::new();
    let failed = |source| ContentError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(Path::new(path)).map_err(failed)?;
    file.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(ContentError::TooLong { path: path.to_owned() });
    }
    Ok(text)
}

/// `path` is what messages call the text.
pub fn parse(path: &str, text: &str) -> Result<Content, ContentError> {
    let text = text.trim_start_matches('\u{feff}');
    let begin = text.trim_start();
    let commented = begin.starts_with("//") || begin.starts_with("/*");
    match begin.chars().next() {
        _ if commented => tree(path, text),
        Some('{') => tree(path, text),
        Some('[') => serde_json::from_str(text).map(Content::Names).map_err(|error| {
            ContentError::Content(format!("{path}: expected a list of names: {error}"))
        }),
        _ => {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            Ok(Content::Names(lines.map(str::to_owned).collect()))
        }
    }
}

fn tree(path: &str, text: &str) -> Result<Content, ContentError> {
    parse_tree(text).map(Content::Tree).map_err(|problems| {
        let source = Source { file: path, text };
        let said = problems.iter().map(|problem| source.report(problem).to_string());
        ContentError::Content(said.collect::<Vec<_>>().join("; "))
    })
}

pub fn add(
    parent_level: LevelIx,
    content: &Content,
    builder: &mut ForestBuilder,
) -> Result<(), SourceError> {
    match content {
        Content::Tree(nodes) => Ok(manual::add(nodes, builder)?),
        Content::Names(children) => {
            for parent in names(builder, parent_level) {
                for child in children {
                    builder.add(parent_level + 1, child, &parent, true)?;
                }
            }
            Ok(())
        }
    }
}
