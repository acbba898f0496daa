//! The output of a job as a file: bytes of both streams in the order in which they came, and when.
//!
//! ```text
//! "accel log 1\n" { kind: u8, at_ms: u64, length: u32, bytes }*        numbers little-endian
//! ```
//!
//! What must stay true: what is read back are the bytes that were written, cut at [`LIMIT`] with a mark; a file cut
//! anywhere is read up to its last whole record. A writer holds a lock on its file, so that a reader who follows
//! knows when nothing more can come.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::domain::Stream;

/// Most bytes of output that one file keeps.
pub const LIMIT: u64 = 1 << 30;
/// Longest piece of one record; longer ones are written as several.
const LONGEST: usize = 1 << 20;
const MAGIC: &[u8] = b"accel log 1\n";

const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const TRUNCATED: u8 = 3;
const END: u8 = 4;

/// One record of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Output {
        at_ms: u64,
        stream: Stream,
        bytes: Vec<u8>,
    },
    /// The limit was reached: nothing after this is kept.
    Truncated,
    /// The job was over, and this is all of its output.
    End,
}

#[derive(Debug)]
pub struct LogWriter {
    file: BufWriter<File>,
    left: u64,
}

impl LogWriter {
    /// Makes a new file, which must not exist.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::with_limit(path, LIMIT)
    }

    fn with_limit(path: &Path, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        // Without locks a reader who follows stops too early, and nothing else is lost.
        let _ = file.try_lock();
        let mut file = BufWriter::with_capacity(64 * 1024, file);
        file.write_all(MAGIC)?;
        Ok(Self { file, left: limit })
    }

    pub fn append(&mut self, at_ms: u64, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let kind = match stream {
            Stream::Stdout => STDOUT,
            Stream::Stderr => STDERR,
        };
        for piece in bytes.chunks(LONGEST) {
            if self.left == 0 {
                return Ok(());
            }
            let kept = &piece[..usize::try_from(self.left).unwrap_or(usize::MAX).min(piece.len())];
            self.record(kind, at_ms, kept)?;
            self.left -= kept.len() as u64;
            if kept.len() < piece.len() || self.left == 0 {
                self.left = 0;
                self.record(TRUNCATED, at_ms, &[])?;
            }
        }
        Ok(())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    pub fn finish(mut self, at_ms: u64) -> io::Result<()> {
        self.record(END, at_ms, &[])?;
        self.file.flush()
    }

    fn record(&mut self, kind: u8, at_ms: u64, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).expect("pieces are short");
        self.file.write_all(&[kind])?;
        self.file.write_all(&at_ms.to_le_bytes())?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(bytes)
    }
}

/// Reads records; may be asked again after it had none, when more may have been written.
#[derive(Debug)]
pub struct LogReader {
    file: BufReader<File>,
    /// Where the next record begins.
    at: u64,
}

impl LogReader {
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        let mut magic = Vec::new();
        file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        if !MAGIC.starts_with(&magic) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "is no log of this version of accel"));
        }
        Ok(Self { file, at: MAGIC.len() as u64 })
    }

    /// `None` where the last whole record ends.
    pub fn next_record(&mut self) -> io::Result<Option<Record>> {
        match self.read_record() {
            Ok((record, length)) => {
                self.at += length;
                Ok(Some(record))
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.file.seek(io::SeekFrom::Start(self.at))?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether its writer is still at work.
    pub fn is_written(&self) -> bool {
        match self.file.get_ref().try_lock_shared() {
            Ok(()) => {
                let _ = self.file.get_ref().unlock();
                false
            }
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(_)) => false,
        }
    }

    fn read_record(&mut self) -> io::Result<(Record, u64)> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "is damaged");
        let mut header = [0; 13];
        self.file.read_exact(&mut header)?;
        let at_ms = u64::from_le_bytes(header[1..9].try_into().expect("8 bytes"));
        let length = u32::from_le_bytes(header[9..].try_into().expect("4 bytes"));
        if length as usize > LONGEST {
            return Err(damaged());
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes)?;
        let record = match header[0] {
            STDOUT => Record::Output { at_ms, stream: Stream::Stdout, bytes },
            STDERR => Record::Output { at_ms, stream: Stream::Stderr, bytes },
            TRUNCATED => Record::Truncated,
            END => Record::End,
            _ => return Err(damaged()),
        };
        Ok((record, header.len() as u64 + u64::from(length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(path: &Path) -> io::Result<Vec<Record>> {
        let mut reader = LogReader::open(path)?;
        std::iter::from_fn(|| reader.next_record().transpose()).collect()
    }

    fn output(at_ms: u64, stream: Stream, bytes: &[u8]) -> Record {
        Record::Output { at_ms, stream, bytes: bytes.to_vec() }
    }

    #[test]
    fn what_was_written_is_read_up_to_any_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let mut writer = LogWriter::create(&path).unwrap();
        writer.append(1, Stream::Stdout, b"a\0\xff").unwrap();
        writer.append(2, Stream::Stderr, b"warn\n").unwrap();
        writer.append(3, Stream::Stdout, b"").unwrap();
        writer.finish(4).unwrap();
        let whole =
            [output(1, Stream::Stdout, b"a\0\xff"), output(2, Stream::Stderr, b"warn\n"), Record::End];
        assert_eq!(records(&path).unwrap(), whole);

        let bytes = std::fs::read(&path).unwrap();
        let cut = folder.path().join("cut.log");
        for length in 0..bytes.len() {
            std::fs::write(&cut, &bytes[..length]).unwrap();
            let seen = records(&cut).unwrap();
            assert!(seen.len() < whole.len() && whole.starts_with(&seen), "cut at {length}");
            let mut changed = bytes.clone();
            changed[length] ^= 0xa5;
            std::fs::write(&cut, &changed).unwrap();
            // Any answer but a panic or endless memory.
            let _ = records(&cut);
        }
    }

    #[test]
    fn the_limit_is_marked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let mut writer = LogWriter::with_limit(&path, 5).unwrap();
        for _ in 0..3 {
            writer.append(1, Stream::Stdout, b"abc").unwrap();
        }
        writer.finish(2).unwrap();
        let expect = [
            output(1, Stream::Stdout, b"abc"),
            output(1, Stream::Stdout, b"ab"),
            Record::Truncated,
            Record::End,
        ];
        assert_eq!(records(&path).unwrap(), expect);
    }

    #[test]
    fn a_reader_follows_a_writer_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let mut writer = LogWriter::create(&path).unwrap();
        writer.flush().unwrap();
        let mut reader = LogReader::open(&path).unwrap();
        assert_eq!(reader.next_record().unwrap(), None);
        assert!(reader.is_written());
        writer.append(1, Stream::Stdout, b"late").unwrap();
        writer.flush().unwrap();
        assert_eq!(reader.next_record().unwrap(), Some(output(1, Stream::Stdout, b"late")));
        // As a kill would: no end, but nobody holds the file.
        drop(writer);
        assert!(!reader.is_written());
        assert_eq!(reader.next_record().unwrap(), None);
    }
}
