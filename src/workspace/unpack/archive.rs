//! A strict reader of tar streams: ustar with GNU and PAX long names.
//!
//! Numbers and names of a header are parsed by the `tar` crate; which headers count, and how much of them is read into memory, is
//! decided here. An archive ends with a block of zeros; without it, it has been cut off.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::{Refused, UnpackError};

const BLOCK: usize = 512;
/// Longer names than a system's paths can be are not read.
const LONGEST_NAME: u64 = 4096;
const LARGEST_PAX: u64 = 64 << 10;
/// What may follow the end: writers fill up their last record.
const TRAILER: u64 = 1 << 20;

/// One entry, before anything about it is believed.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    pub(super) kind: MemberKind,
    pub(super) mode: u32,
}

#[derive(Debug)]
pub(super) enum MemberKind {
    File { size: u64 },
    Directory,
    Symlink { target: Vec<u8> },
    HardLink { target: Vec<u8> },
    Other { kind: &'static str },
}

pub(super) struct Archive<R> {
    reader: R,
    /// Contents of the present member that are still to come, and what fills up its last block.
    left: u64,
    padding: u64,
}

/// What headers before a member's own say about it.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, left: 0, padding: 0 }
    }

    /// The next member; its contents are read from the archive itself.
    pub(super) fn next(&mut self) -> Result<Option<Member>, UnpackError> {
        self.skip(self.left + self.padding)?;
        let mut extended = Extended::default();
        loop {
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            if block.iter().all(|byte| *byte == 0) {
                (self.left, self.padding) = (0, 0);
                return self.drain();
            }
            let header = Header::from_byte_slice(&block);
            check_sum(header)?;
            let size = header.entry_size().map_err(|_| UnpackError::Malformed("a size is no number"))?;
            match header.entry_type() {
                EntryType::GNULongName => extended.name = Some(self.long_name(header, size)?),
                EntryType::GNULongLink => extended.target = Some(self.long_name(header, size)?),
                EntryType::XHeader => self.pax(header, size, &mut extended)?,
                EntryType::XGlobalHeader => {
                    let mut global = Extended::default();
                    self.pax(header, size, &mut global)?;
                    if global.name.is_some() || global.target.is_some() || global.size.is_some() {
                        return Err(refused(&header.path_bytes(), Refused::GlobalName));
                    }
                }
                _ => return self.member(header, size, extended).map(Some),
            }
        }
    }

    fn member(&mut self, header: &Header, size: u64, extended: Extended) -> Result<Member, UnpackError> {
        let name = extended.name.unwrap_or_else(|| header.path_bytes().into_owned());
        if extended.size.is_some_and(|pax| pax != size) {
            return Err(refused(&name, Refused::SizesDiffer));
        }
        let link =
            || extended.target.or_else(|| header.link_name_bytes().map(Into::into)).unwrap_or_default();
        let is_file = matches!(header.entry_type(), EntryType::Regular | EntryType::Continuous);
        let kind = match header.entry_type() {
            _ if extended.sparse => MemberKind::Other { kind: "sparse file" },
            // Archives older than ustar mark folders by a final slash.
            EntryType::Regular if name.ends_with(b"/") && size == 0 => MemberKind::Directory,
            EntryType::Regular | EntryType::Continuous => MemberKind::File { size },
            EntryType::Directory => MemberKind::Directory,
            EntryType::Symlink => MemberKind::Symlink { target: link() },
            EntryType::Link => MemberKind::HardLink { target: link() },
            EntryType::Fifo => MemberKind::Other { kind: "FIFO" },
            EntryType::Char | EntryType::Block => MemberKind::Other { kind: "device" },
            EntryType::GNUSparse => MemberKind::Other { kind: "sparse file" },
            _ => MemberKind::Other { kind: "thing of an unknown kind" },
        };
        if !is_file && size != 0 && !matches!(kind, MemberKind::Other { .. }) {
            return Err(refused(&name, Refused::SizesDiffer));
        }
        (self.left, self.padding) = (size, padding(size));
        let mode = header.mode().map_err(|_| UnpackError::Malformed("a mode is no number"))?;
        Ok(Member { name, kind, mode })
    }

    fn long_name(&mut self, header: &Header, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > LONGEST_NAME + 1 {
            return Err(refused(&header.path_bytes(), Refused::LongName));
        }
        let mut name = self.metadata(size)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn pax(&mut self, header: &Header, size: u64, extended: &mut Extended) -> Result<(), UnpackError> {
        if size > LARGEST_PAX {
            return Err(refused(&header.path_bytes(), Refused::LongName));
        }
        let bytes = self.metadata(size)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (key, value, after) = pax_record(rest).ok_or(UnpackError::Malformed("a PAX record"))?;
            match key {
                b"path" => extended.name = Some(value.to_vec()),
                b"linkpath" => extended.target = Some(value.to_vec()),
                b"size" => extended.size = Some(number(value).ok_or(UnpackError::Malformed("a PAX size"))?),
                key if key.starts_with(b"GNU.sparse") => extended.sparse = true,
                _ => {}
            }
            rest = after;
        }
        Ok(())
    }

    fn metadata(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.fill(&mut bytes)?;
        self.skip(padding(size))?;
        Ok(bytes)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), UnpackError> {
        self.reader.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => UnpackError::Truncated,
            _ => UnpackError::Stream(error),
        })
    }

    fn skip(&mut self, count: u64) -> Result<(), UnpackError> {
        let skipped =
            io::copy(&mut (&mut self.reader).take(count), &mut io::sink()).map_err(UnpackError::Stream)?;
        if skipped < count { Err(UnpackError::Truncated) } else { Ok(()) }
    }

    /// Reads on, within bounds, so that the sender is not stopped while it finishes.
    fn drain(&mut self) -> Result<Option<Member>, UnpackError> {
        io::copy(&mut (&mut self.reader).take(TRAILER), &mut io::sink()).map_err(UnpackError::Stream)?;
        Ok(None)
    }
}

/// The contents of the present member.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn check_sum(header: &Header) -> Result<(), UnpackError> {
    const FIELD: std::ops::Range<usize> = 148..156;
    let bytes = header.as_bytes();
    let sum = bytes
        .iter()
        .enumerate()
        .map(|(at, byte)| u32::from(if FIELD.contains(&at) { b' ' } else { *byte }))
        .sum::<u32>();
    match header.cksum() {
        Ok(expected) if expected == sum => Ok(()),
        _ => Err(UnpackError::Malformed("a header's checksum is wrong")),
    }
}

/// `"30 path=reports/junit.xml\n"`: key, value and what follows.
fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&bytes[..space])?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

pub(super) fn refused(name: &[u8], why: Refused) -> UnpackError {
    UnpackError::Refused { entry: shown(name), why }
}

/// Names as shown: nothing in them may steer a terminal, nor flood it.
fn shown(name: &[u8]) -> String {
    const LONGEST_SHOWN: usize = 200;
    let text = String::from_utf8_lossy(name);
    let short: String = text.chars().take(LONGEST_SHOWN).collect();
    let mark = if short.len() < text.len() { "…" } else { "" };
    short.escape_debug().to_string().replace("\\\\", "\\") + mark
}
