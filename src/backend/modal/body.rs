//! What a transfer sends, piece by piece, so that it shows whether it moves.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::fs::File;
use tokio::io::{AsyncRead as _, ReadBuf};

use super::limits::Pulse;

const PIECE: usize = 256 << 10;

/// Each pulse beats when a piece is taken.
pub(super) struct Body {
    source: Source,
    left: u64,
    pulses: [Pulse; 2],
}

enum Source {
    Bytes(Bytes),
    File { file: File, buffer: Box<[u8]> },
}

impl Body {
    pub(super) fn of_bytes(bytes: Bytes, pulses: [Pulse; 2]) -> Self {
        Self { left: bytes.len() as u64, source: Source::Bytes(bytes), pulses }
    }

    /// The first `length` bytes of a file.
    pub(super) fn of_file(mut file: File, length: u64, pulses: [Pulse; 2]) -> Self {
        file.set_max_buf_size(PIECE);
        let buffer = vec![0; PIECE].into_boxed_slice();
        Self { source: Source::File { file, buffer }, left: length, pulses }
    }

    pub(super) fn length(&self) -> u64 {
        self.left
    }
}

impl Source {
    /// At most so many bytes; none at the end.
    fn poll_piece(&mut self, context: &mut Context<'_>, most: usize) -> Poll<io::Result<Bytes>> {
        match self {
            Self::Bytes(bytes) => Poll::Ready(Ok(bytes.split_to(most.min(bytes.len())))),
            Self::File { file, buffer } => {
                let mut buffer = ReadBuf::new(&mut buffer[..most]);
                ready!(Pin::new(file).poll_read(context, &mut buffer))?;
                Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
            }
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE);
        let piece = ready!(self.source.poll_piece(context, most))?;
        if piece.is_empty() {
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        }
        self.left -= piece.len() as u64;
        self.pulses.iter().for_each(Pulse::beat);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;

    use super::*;

    /// What comes out, piece by piece, each later than the one before.
    async fn pieces(mut body: Body) -> io::Result<Vec<Bytes>> {
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame?.into_data().expect("no trailers"));
            tokio::time::advance(Duration::from_secs(60)).await;
        }
        Ok(pieces)
    }

    #[tokio::test(start_paused = true)]
    async fn all_bytes_come_in_pieces_and_each_shows_that_something_moves() {
        let content: Bytes = (0..PIECE * 3 + 7).map(|at| at.to_le_bytes()[1]).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("content");
        std::fs::write(&path, &content).expect("written");
        let (own, all) = (Pulse::new(), Pulse::new());
        let open = async || File::open(&path).await.expect("opened");
        let length = content.len() as u64;
        for body in [
            Body::of_bytes(content.clone(), [own.clone(), all.clone()]),
            Body::of_file(open().await, length, [own.clone(), all.clone()]),
        ] {
            assert_eq!((body.length(), http_body::Body::size_hint(&body).exact()), (length, Some(length)));
            let sending = own.keeps(Duration::from_secs(61), pieces(body));
            let pieces = all.keeps(Duration::from_secs(61), sending).await;
            let pieces = pieces.expect("it moves").expect("it moves").expect("it is whole");
            assert!(pieces.len() >= 4);
            assert_eq!(pieces.concat(), content);
        }
        let longer = Body::of_file(open().await, length + 1, [own, all]);
        assert_eq!(pieces(longer).await.expect_err("cut short").kind(), io::ErrorKind::UnexpectedEof);
    }
}
