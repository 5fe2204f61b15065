//! Messages between schedulers: a header as JSON, a line end, and bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;

use bistro_common::Millis;
use bistro_common::ids::Epoch;
use bistro_common::protocol::succession::RecordsHeader;
use bistro_common::protocol::{DecodeError, Versioned, decode, encode};
use bistro_core::Record;

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    #[error("the message has no header")]
    NoHeader,
    #[error(transparent)]
    Header(#[from] DecodeError),
    #[error("the records in the message are not valid: {0}")]
    Records(serde_json::Error),
    #[error("a message of {expected} records has {found}")]
    Count { expected: u64, found: usize },
    #[error("the page is cut off")]
    CutOff,
    #[error("there is no epoch {0}: it is the number of starts of schedulers")]
    Epoch(Epoch),
    #[error("nobody reigns for {0} ms without a word")]
    Ttl(Millis),
}

/// There is one to each start of a scheduler: what is above this is no epoch, and would leave no room
/// for those to come.
pub const EPOCH_MAX: Epoch = Epoch(1 << 22);

const TTL_MS_MAX: Millis = 24 * 3_600_000;

pub fn check_epoch(epoch: Epoch) -> Result<(), PartError> {
    if epoch > EPOCH_MAX { Err(PartError::Epoch(epoch)) } else { Ok(()) }
}

/// A part of a message of the stream.
pub fn read_records(message: &[u8]) -> Result<(RecordsHeader, &[u8]), PartError> {
    let (header, bytes) = split_header::<RecordsHeader>(message)?;
    check_epoch(header.epoch)?;
    match header.ttl_ms {
        ..=TTL_MS_MAX => Ok((header, bytes)),
        ttl_ms => Err(PartError::Ttl(ttl_ms)),
    }
}

pub fn join_header(header: &impl Serialize, bytes: &[u8]) -> Vec<u8> {
    let mut message = encode(header);
    message.push(b'\n');
    message.extend_from_slice(bytes);
    message
}

pub fn split_header<T: DeserializeOwned + Versioned>(
    message: &[u8],
) -> Result<(T, &[u8]), PartError> {
    let end = message.iter().position(|&byte| byte == b'\n').ok_or(PartError::NoHeader)?;
    Ok((decode(&message[..end])?, &message[end + 1..]))
}

/// Puts the parts of messages together. One whose writer died on the way is never complete.
#[derive(Default)]
pub struct Joined {
    /// What the next part must say of itself.
    next: Option<RecordsHeader>,
    bytes: Vec<u8>,
}

impl Joined {
    /// The whole message, with its last part.
    pub fn push(
        &mut self,
        header: RecordsHeader,
        bytes: &[u8],
    ) -> Result<Option<(RecordsHeader, Vec<Record>)>, PartError> {
        if header.part == 0 {
            self.bytes.clear();
        } else if self.next.as_ref() != Some(&header) {
            // It was begun before what is read here.
            self.next = None;
            return Ok(None);
        }
        self.bytes.extend_from_slice(bytes);
        if header.part + 1 < header.parts {
            self.next = Some(RecordsHeader { part: header.part + 1, ..header });
            return Ok(None);
        }
        self.next = None;
        let records: Vec<Record> = match self.bytes.is_empty() {
            true => Vec::new(),
            false => serde_json::from_slice(&self.bytes).map_err(PartError::Records)?,
        };
        if records.len() as u64 != header.records {
            return Err(PartError::Count { expected: header.records, found: records.len() });
        }
        Ok(Some((header, records)))
    }
}

/// Appends a row of a page.
pub fn push_row(page: &mut Vec<u8>, key: &str, value: &[u8]) {
    for bytes in [key.as_bytes(), value] {
        let length = u32::try_from(bytes.len()).expect("a row fits into a message");
        page.extend_from_slice(&length.to_le_bytes());
        page.extend_from_slice(bytes);
    }
}

pub fn rows(mut page: &[u8]) -> Result<Vec<(String, Vec<u8>)>, PartError> {
    let mut rows = Vec::new();
    while !page.is_empty() {
        let key = str::from_utf8(take(&mut page)?).map_err(|_| PartError::CutOff)?;
        rows.push((key.to_owned(), take(&mut page)?.to_vec()));
    }
    Ok(rows)
}

/// The next key, or value.
fn take<'a>(page: &mut &'a [u8]) -> Result<&'a [u8], PartError> {
    let (length, rest) = page.split_first_chunk().ok_or(PartError::CutOff)?;
    let length = u32::from_le_bytes(*length) as usize;
    let (taken, rest) = rest.split_at_checked(length).ok_or(PartError::CutOff)?;
    *page = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bistro_common::ids::CellId;
    use bistro_common::protocol::VERSION;
    use bistro_common::protocol::succession::RecordsKind;

    fn header(part: u32, parts: u32, records: u64) -> RecordsHeader {
        RecordsHeader {
            v: VERSION,
            cell: CellId::from_parts(0, [0; 10]),
            epoch: Epoch(3),
            place: "here".to_owned(),
            host: "host".to_owned(),
            kind: RecordsKind::Records,
            ttl_ms: 1_000,
            from: 7,
            records,
            part,
            parts,
        }
    }

    #[test]
    fn a_message_is_whole_with_its_last_part_and_half_of_one_is_dropped() {
        let records = vec![Record::DeletedVersion { version_id: 1 }; 3];
        let bytes = encode(&records);
        let (first, second) = bytes.split_at(20);
        let mut joined = Joined::default();
        assert!(joined.push(header(1, 2, 3), second).unwrap().is_none(), "its first is missing");
        assert!(joined.push(header(0, 2, 9), b"of a writer that died").unwrap().is_none());
        assert!(joined.push(header(0, 2, 3), first).unwrap().is_none());
        let (whole, read) = joined.push(header(1, 2, 3), second).unwrap().unwrap();
        assert_eq!((whole.from, read), (7, records));
        let error = joined.push(header(0, 1, 1), &bytes).unwrap_err();
        assert_eq!(error.to_string(), "a message of 1 records has 3");
        assert!(joined.push(header(0, 1, 1), b"{").is_err());
        assert_eq!(joined.push(header(0, 1, 0), b"").unwrap().unwrap().1, []);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let split = |bytes: &[u8]| split_header::<RecordsHeader>(bytes).map(|_| ());
        assert!(matches!(split(b""), Err(PartError::NoHeader)));
        assert!(matches!(split(b"{}\n"), Err(PartError::Header(_))));
        let message = join_header(&header(0, 1, 0), b"a\nb");
        let (read, rest): (RecordsHeader, _) = split_header(&message).unwrap();
        assert_eq!((read, rest), (header(0, 1, 0), &b"a\nb"[..]));
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        let read = |header| read_records(&join_header(&header, b"")).map(|_| ());
        assert!(read(header(0, 1, 0)).is_ok());
        let header = || header(0, 1, 0);
        let error = read(RecordsHeader { epoch: Epoch(u64::MAX), ..header() });
        assert!(matches!(error, Err(PartError::Epoch(_))));
        let error = read(RecordsHeader { ttl_ms: u64::MAX, ..header() });
        assert!(matches!(error, Err(PartError::Ttl(_))));
    }

    #[test]
    fn rows_come_out_as_they_went_in_and_a_torn_page_is_refused() {
        let mut page = Vec::new();
        assert_eq!(rows(&page).unwrap(), []);
        push_row(&mut page, "a", b"");
        push_row(&mut page, "bé", &[0, 255]);
        let all = vec![("a".to_owned(), vec![]), ("bé".to_owned(), vec![0, 255])];
        assert_eq!(rows(&page).unwrap(), all);
        // Between two rows it is a page, too.
        let whole = [0, 9];
        for end in (0..page.len()).filter(|end| !whole.contains(end)) {
            assert!(rows(&page[..end]).is_err(), "{end}");
        }
    }
}
