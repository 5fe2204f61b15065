//! The files of a config: one, all of a directory, one behind a URL, or the values of a NATS KV
//! bucket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bistro_common::config::{Config, Problem, Source, parse_files};
use bistro_common::protocol::api::ProblemReport;

use crate::documents::Documents;

/// One file, by the name that messages call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    pub name: String,
    pub text: String,
}

/// Where a config is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    Path(PathBuf),
    /// `http://` or `https://`.
    Url(String),
    /// `kv:BUCKET`: each value is a file, by the name of its key.
    Bucket(String),
}

impl std::str::FromStr for Location {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.strip_prefix("kv:") {
            Some(bucket) => Self::Bucket(bucket.to_owned()),
            None if text.starts_with("http://") || text.starts_with("https://") => {
                Self::Url(text.to_owned())
            }
            None => Self::Path(text.into()),
        })
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(url),
            Self::Bucket(bucket) => write!(f, "kv:{bucket}"),
        }
    }
}

/// How long a URL may take.
const URL_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a config, wherever it is. The error is for people.
pub async fn fetch(
    location: &Location,
    documents: &mut Documents,
) -> Result<Vec<ConfigFile>, String> {
    match location {
        Location::Path(path) => {
            let path = path.clone();
            let read = tokio::task::spawn_blocking(move || read(&path)).await;
            read.map_err(|error| error.to_string())?
                .map_err(|error| format!("cannot be read: {error}"))
        }
        Location::Url(url) => {
            let text = documents.url(url, URL_TIMEOUT).await.map_err(|error| error.to_string())?;
            Ok(vec![ConfigFile { name: url.clone(), text }])
        }
        Location::Bucket(bucket) => {
            let values = documents.bucket(bucket).await.map_err(|error| error.to_string())?;
            let file = |(key, text)| ConfigFile { name: format!("kv:{bucket}/{key}"), text };
            Ok(values.into_iter().map(file).collect())
        }
    }
}

/// A file is read as it is; of a directory all files whose names end with `.json` or `.jsonc`, in
/// the order of their names, but hidden ones, as editors leave behind.
pub fn read(path: &Path) -> std::io::Result<Vec<ConfigFile>> {
    let files = if path.is_dir() { list(path)? } else { vec![path.to_owned()] };
    let read = |file: PathBuf| {
        let text = std::fs::read_to_string(&file)?;
        Ok(ConfigFile { name: file.display().to_string(), text })
    };
    files.into_iter().map(read).collect()
}

fn list(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    let paths = entries.into_iter().map(|entry| entry.path());
    let is_config = |path: &PathBuf| {
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        !hidden && path.extension().is_some_and(|ending| ending == "json" || ending == "jsonc")
    };
    let mut files: Vec<_> = paths.filter(is_config).collect();
    if files.is_empty() {
        return Err(std::io::Error::other("there is no file that ends with .json in it"));
    }
    files.sort_unstable();
    Ok(files)
}

/// What files come to.
pub struct Parsed {
    pub config: Option<Config>,
    pub reports: Vec<ProblemReport>,
    /// The same, by the number of their file.
    pub problems: Vec<(usize, Problem)>,
}

pub fn parse(files: &[ConfigFile]) -> Parsed {
    let texts: Vec<&str> = files.iter().map(|file| file.text.as_str()).collect();
    let parsed = parse_files(&texts);
    let numbered = parsed.problems.into_iter().enumerate();
    let problems: Vec<_> =
        numbered.flat_map(|(file, of)| of.into_iter().map(move |p| (file, p))).collect();
    let reports = problems.iter().map(|(file, problem)| source(&files[*file]).report(problem));
    Parsed { config: parsed.config, reports: reports.collect(), problems }
}

pub fn source(file: &ConfigFile) -> Source<'_> {
    Source { file: &file.name, text: &file.text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_read_in_the_order_of_names_without_what_is_hidden() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read(directory.path()).is_err(), "there is nothing in it");
        for name in ["b.json", "a.jsonc", ".c.json", "d.json~", "README"] {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        let files = read(directory.path()).unwrap();
        assert_eq!(
            files.iter().map(|f| f.text.as_str()).collect::<Vec<_>>(),
            ["a.jsonc", "b.json"]
        );
        let one = read(&directory.path().join("b.json")).unwrap();
        assert_eq!(one.len(), 1);
        let parsed = parse(&files);
        assert!(parsed.config.is_none());
        assert!(parsed.reports.iter().any(|report| report.file.ends_with("a.jsonc")));
    }
}
