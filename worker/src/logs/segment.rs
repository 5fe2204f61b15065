//! Segment files: blocks, one after the other.
//!
//! One grows, under the name `FIRST.open`, a block per write. A segment that is full is packed into
//! larger blocks under the name `FIRST.seg`, with an index at its end: where the blocks are, and a
//! filter that says what is certainly not in it. `FIRST` is the id of its first line, in hex.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bistro_common::protocol::log::LineId;

use super::Source;
use super::block::{Block, Builder, Stored, take_u64};

/// A growing segment of this size is closed.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// Likewise one with so many blocks, which is what an idle worker writes, line by line.
pub const BLOCKS_MAX: usize = 64 << 10;
/// Lines of a closed segment lie together in blocks of about so much.
const PACKED_BYTES: usize = 256 << 10;

const MAGIC: u32 = u32::from_le_bytes(*b"iNX1");
const FOOT: usize = 12;
const ENTRY: usize = 28;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockAt {
    pub at: u64,
    pub bytes: u32,
    pub first: LineId,
    pub last: LineId,
}

#[derive(Clone, Debug)]
pub struct Segment {
    pub path: PathBuf,
    /// Of whole blocks, and of the index.
    pub bytes: u64,
    pub blocks: Vec<BlockAt>,
    /// None: it is still open.
    pub filter: Option<Filter>,
}

impl Segment {
    /// A new one, to be written to.
    pub fn create(directory: &Path, first: LineId) -> std::io::Result<(Self, File)> {
        let path = directory.join(format!("{:016x}.open", first.0));
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        Ok((Self { path, bytes: 0, blocks: Vec::new(), filter: None }, file))
    }

    /// Reads what there is in a file. What is torn or damaged in an open one is left out.
    pub fn load(path: PathBuf) -> std::io::Result<Self> {
        let file = File::open(&path)?;
        let bytes = file.metadata()?.len();
        if let Some((blocks, filter)) = read_index(&file, bytes)? {
            return Ok(Self { path, bytes, blocks, filter: Some(filter) });
        }
        let whole = std::fs::read(&path)?;
        let (mut blocks, mut at, mut damaged) = (Vec::new(), 0, 0);
        while let Some((start, stored)) = Stored::find(&whole, at) {
            damaged += start - at;
            at = start + stored.bytes;
            let (first, last) = (stored.first, stored.last);
            blocks.push(BlockAt { at: start as u64, bytes: stored.bytes as u32, first, last });
        }
        damaged += whole.len() - at;
        if damaged > 0 {
            tracing::warn!(path = %path.display(), bytes = damaged, "a part of a log is damaged");
        }
        Ok(Self { path, bytes: at as u64, blocks, filter: None })
    }

    pub fn first(&self) -> LineId {
        self.blocks.first().map_or(LineId::MIN, |block| block.first)
    }

    pub fn last(&self) -> LineId {
        self.blocks.last().map_or(LineId::MIN, |block| block.last)
    }

    pub fn is_full(&self) -> bool {
        self.bytes >= SEGMENT_BYTES || self.blocks.len() >= BLOCKS_MAX
    }

    /// A block as it lies in the segment's file, read into `buffer`. None: it is damaged.
    pub fn stored<'a>(
        file: &File,
        block: &BlockAt,
        buffer: &'a mut Vec<u8>,
    ) -> std::io::Result<Option<Stored<'a>>> {
        buffer.resize(block.bytes as usize, 0);
        file.read_exact_at(buffer, block.at)?;
        Ok(Stored::parse(buffer))
    }

    /// Packs the segment into a file of its own. What is damaged is left out. The open file stays,
    /// for those who still read it.
    pub fn pack(&self) -> std::io::Result<Self> {
        let (path, new) = (self.path.with_extension("seg"), self.path.with_extension("new"));
        let packed = self.pack_into(&new).and_then(|packed| {
            std::fs::rename(&new, &path)?;
            Ok(packed)
        });
        if packed.is_err() {
            // It would only fill a disk that may be full.
            let _ = std::fs::remove_file(&new);
        }
        let (bytes, blocks, filter) = packed?;
        Ok(Self { path, bytes, blocks, filter: Some(filter) })
    }

    fn pack_into(&self, new: &Path) -> std::io::Result<(u64, Vec<BlockAt>, Filter)> {
        let file = File::open(&self.path)?;
        let mut packed = Packed {
            file: OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(new)?,
            out: Vec::new(),
            at: 0,
            blocks: Vec::new(),
            keys: Vec::new(),
        };
        let (mut builder, mut buffer, mut body) = (Builder::default(), Vec::new(), Vec::new());
        for at in &self.blocks {
            let stored = Self::stored(&file, at, &mut buffer)?;
            let Some(block) = stored.and_then(|stored| stored.open(std::mem::take(&mut body)))
            else {
                tracing::warn!(path = %self.path.display(), at = at.at, "a block is damaged");
                continue;
            };
            append(&mut builder, &block);
            body = block.body;
            if builder.bytes() >= PACKED_BYTES {
                packed.add(&mut builder)?;
            }
        }
        packed.add(&mut builder)?;
        packed.finish()
    }
}

fn append(builder: &mut Builder, block: &Block) {
    let numbers: Vec<u32> = block.sources.iter().map(|about| builder.source(about)).collect();
    for row in block.rows() {
        builder.push(numbers[row.source as usize], &row.line, &block.text()[row.at]);
    }
}

/// A packed segment on its way to the disk.
struct Packed {
    file: File,
    out: Vec<u8>,
    at: u64,
    blocks: Vec<BlockAt>,
    keys: Vec<u32>,
}

impl Packed {
    fn add(&mut self, builder: &mut Builder) -> std::io::Result<()> {
        if builder.is_empty() {
            return Ok(());
        }
        self.keys.extend(builder.sources().iter().flat_map(|about| Filter::keys(about)));
        let (first, last) = builder.ids();
        self.out.clear();
        builder.finish(true, &mut self.out);
        self.file.write_all(&self.out)?;
        let bytes = self.out.len() as u32;
        self.blocks.push(BlockAt { at: self.at, bytes, first, last });
        self.at += u64::from(bytes);
        Ok(())
    }

    fn finish(mut self) -> std::io::Result<(u64, Vec<BlockAt>, Filter)> {
        self.keys.sort_unstable();
        self.keys.dedup();
        let filter = Filter::of(&self.keys);
        let mut index = Vec::new();
        for block in &self.blocks {
            index.extend(block.at.to_le_bytes());
            index.extend(block.bytes.to_le_bytes());
            index.extend(block.first.0.to_le_bytes());
            index.extend(block.last.0.to_le_bytes());
        }
        index.extend(filter.words.iter().flat_map(|word| word.to_le_bytes()));
        let crc = crc32fast::hash(&index);
        for number in [self.blocks.len() as u32, crc, MAGIC] {
            index.extend(number.to_le_bytes());
        }
        index.extend((index.len() as u32 + 4).to_le_bytes());
        self.file.write_all(&index)?;
        // The open segment goes when this one is there, the host's crash or not.
        self.file.sync_data()?;
        Ok((self.at + index.len() as u64, self.blocks, filter))
    }
}

/// The index of a packed segment of so many bytes; none if it is another file.
fn read_index(file: &File, bytes: u64) -> std::io::Result<Option<(Vec<BlockAt>, Filter)>> {
    let mut size = [0; 4];
    if bytes < 4 + FOOT as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut size, bytes - 4)?;
    let size = u64::from(u32::from_le_bytes(size));
    if size < 4 + FOOT as u64 || size > bytes {
        return Ok(None);
    }
    let mut index = vec![0; size as usize - 4];
    file.read_exact_at(&mut index, bytes - size)?;
    Ok(parse_index(&index))
}

fn parse_index(index: &[u8]) -> Option<(Vec<BlockAt>, Filter)> {
    let (index, foot) = index.split_at(index.len() - FOOT);
    let number = |at: usize| u32::from_le_bytes(foot[at..at + 4].try_into().expect("four"));
    if number(8) != MAGIC || number(4) != crc32fast::hash(index) {
        return None;
    }
    let (entries, filter) = index.split_at_checked((number(0) as usize).checked_mul(ENTRY)?)?;
    let entry = |mut entry: &[u8]| {
        let at = take_u64(&mut entry)?;
        let (bytes, mut ids) = entry.split_first_chunk()?;
        let (first, last) = (LineId(take_u64(&mut ids)?), LineId(take_u64(&mut ids)?));
        Some(BlockAt { at, bytes: u32::from_le_bytes(*bytes), first, last })
    };
    let blocks = entries.chunks_exact(ENTRY).map(entry).collect::<Option<Vec<_>>>()?;
    let words = filter.chunks_exact(8);
    let words = words.map(|word| u64::from_le_bytes(word.try_into().expect("eight"))).collect();
    Filter::of_words(words).map(|filter| (blocks, filter))
}

/// Says of jobs, nodes and attempts whether they may be in a segment (a Bloom filter).
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// A power of two.
    words: Vec<u64>,
}

impl Filter {
    /// Sixteen bits for each key, while there are not too many.
    const WORDS_MAX: usize = 2 << 10;

    fn of(keys: &[u32]) -> Self {
        let words = (keys.len() / 4).next_power_of_two().min(Self::WORDS_MAX);
        let mut filter = Self { words: vec![0; words] };
        for &key in keys {
            for place in filter.places(key) {
                filter.words[place / 64] |= 1 << (place % 64);
            }
        }
        filter
    }

    fn of_words(words: Vec<u64>) -> Option<Self> {
        let sane = words.len().is_power_of_two() && words.len() <= Self::WORDS_MAX;
        sane.then_some(Self { words })
    }

    fn places(&self, key: u32) -> [usize; 4] {
        let bits = self.words.len() as u32 * 64 - 1;
        let step = key.wrapping_mul(0x9e37_79b9) >> 8;
        [0, 1, 2, 3].map(|n| (key.wrapping_add(step.wrapping_mul(n)) & bits) as usize)
    }

    pub fn may_have(&self, key: u32) -> bool {
        self.places(key).iter().all(|place| self.words[place / 64] >> (place % 64) & 1 == 1)
    }

    fn keys(about: &Source) -> [u32; 3] {
        [
            Self::job(&about.task.job),
            Self::node(&about.task.node),
            Self::attempt(about.attempt.0.as_bytes()),
        ]
    }

    pub fn job(name: &str) -> u32 {
        crc32fast::hash(format!("job {name}").as_bytes())
    }

    pub fn node(name: &str) -> u32 {
        crc32fast::hash(format!("node {name}").as_bytes())
    }

    pub fn attempt(id: &[u8; 16]) -> u32 {
        crc32fast::hash(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_never_denies_what_it_has() {
        let keys: Vec<u32> = (0..5_000).map(|n| Filter::node(&format!("n{n}"))).collect();
        let filter = Filter::of(&keys);
        assert!(keys.iter().all(|&key| filter.may_have(key)));
        let others = (0..5_000).filter(|n| filter.may_have(Filter::job(&format!("n{n}"))));
        assert!(others.count() < 50, "it denies most of what it does not have");
        assert_eq!(Filter::of_words(filter.words.clone()), Some(filter));
        assert_eq!(Filter::of_words(Vec::new()), None);
    }
}
