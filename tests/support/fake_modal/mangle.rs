//! Answers of a server that is newer than accel, or broken: the same answer, changed by a seed.
//!
//! Works on encoded messages without knowing their types, so every answer there is, and every one that comes later, is
//! covered. What looks like a message inside a field is taken for one.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;

/// How answers are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// With fields that accel does not know, in every message: nothing else differs.
    Newer,
    /// Every number and every enum is an extreme one.
    Extremes,
    /// A few fields are lost, doubled, of another type, or have values that make no sense.
    Nonsense,
    /// Some bytes are others.
    Noise,
    /// The message ends early.
    Truncated,
    /// Nothing is set.
    Empty,
    /// The answer ends as if all were well, without this message and all after it.
    Early,
}

impl How {
    /// Those that no answer of a server that works has.
    pub const BROKEN: [Self; 6] =
        [Self::Extremes, Self::Nonsense, Self::Noise, Self::Truncated, Self::Empty, Self::Early];
}

#[derive(Debug, Clone, Copy)]
pub struct Mangling {
    pub how: How,
    pub seed: u64,
}

/// Field numbers that no schema uses.
const UNKNOWN_FIELD: u32 = 150_000;
/// Deeper messages are left as they are.
const MOST_DEPTH: u32 = 8;
const LONG_TEXT: usize = 100_000;

struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.roll() >> 33).unwrap() % limit.max(1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Varint(u64),
    Fixed64(u64),
    Bytes(Vec<u8>),
    Fixed32(u32),
}

#[derive(Debug, Clone, PartialEq)]
struct Field {
    number: u32,
    value: Value,
}

/// `None`: no message.
fn fields(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| (1..=UNKNOWN_FIELD).contains(number))?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => Value::Fixed64(u64::from_le_bytes(bytes.split_off(..8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                Value::Bytes(bytes.split_off(..length)?.to_vec())
            }
            5 => Value::Fixed32(u32::from_le_bytes(bytes.split_off(..4)?.try_into().ok()?)),
            _ => return None,
        };
        found.push(Field { number, value });
    }
    Some(found)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Field { number, value } in fields {
        let (kind, key) = match value {
            Value::Varint(_) => (0, u64::from(*number)),
            Value::Fixed64(_) => (1, u64::from(*number)),
            Value::Bytes(_) => (2, u64::from(*number)),
            Value::Fixed32(_) => (5, u64::from(*number)),
        };
        put_varint(&mut bytes, key << 3 | kind);
        match value {
            Value::Varint(number) => put_varint(&mut bytes, *number),
            Value::Fixed64(bits) => bytes.put_u64_le(*bits),
            Value::Fixed32(bits) => bytes.put_u32_le(*bits),
            Value::Bytes(data) => {
                put_varint(&mut bytes, data.len() as u64);
                bytes.extend_from_slice(data);
            }
        }
    }
    bytes
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
}

/// Of every size there is, negative ones included; no enum has 9999.
const NUMBERS: [u64; 12] = [
    0,
    1,
    127,
    128,
    9999,
    i32::MAX as u64,
    i32::MIN as i64 as u64,
    u32::MAX as u64,
    i64::MAX as u64,
    i64::MIN as u64,
    u64::MAX,
    (-128_i64) as u64,
];
const FRACTIONS: [f64; 9] =
    [0.0, -1.0, 1e-300, 1e19, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1e300];

fn extreme(value: &Value, dice: &mut Dice) -> Value {
    match value {
        Value::Fixed64(_) => Value::Fixed64(dice.pick(&FRACTIONS).to_bits()),
        #[allow(clippy::cast_possible_truncation, reason = "infinite is an extreme, too")]
        Value::Fixed32(_) => Value::Fixed32((dice.pick(&FRACTIONS) as f32).to_bits()),
        _ => Value::Varint(dice.pick(&NUMBERS)),
    }
}

fn text(dice: &mut Dice) -> Vec<u8> {
    match dice.below(10) {
        0 => Vec::new(),
        1 => b"x".repeat(LONG_TEXT),
        2 => b"\x00\x1b[2J\r\n\t\x07".to_vec(),
        3 => "\u{202e}ünïcödé \u{1f4a9}".into(),
        4 => b"\xff\xfe\xc0".to_vec(),
        5 => b"../../../etc/passwd".to_vec(),
        6 => b"%s%n${HOME}`id`'\"".to_vec(),
        7 => b"-1".to_vec(),
        8 => b"http://127.0.0.1:1".to_vec(),
        _ => b" ".to_vec(),
    }
}

/// One change somewhere in a message, in it or in one that it holds.
fn nonsense(message: &mut Vec<Field>, dice: &mut Dice, depth: u32) {
    if message.is_empty() {
        return insert(message, dice);
    }
    let at = dice.below(message.len());
    if let Value::Bytes(inner) = &mut message[at].value
        && let Some(mut held) = fields(inner).filter(|held| !held.is_empty())
        && depth < MOST_DEPTH
        && dice.below(3) > 0
    {
        nonsense(&mut held, dice, depth + 1);
        *inner = encode(&held);
        return;
    }
    match dice.below(6) {
        0 => drop(message.remove(at)),
        1 => message.push(message[at].clone()),
        2 => insert(message, dice),
        3 => {
            message[at].value = match message[at].value {
                Value::Bytes(_) => Value::Varint(dice.pick(&NUMBERS)),
                _ => Value::Bytes(text(dice)),
            }
        }
        _ => {
            message[at].value = match &message[at].value {
                Value::Bytes(_) => Value::Bytes(text(dice)),
                number => extreme(number, dice),
            }
        }
    }
}

fn insert(message: &mut Vec<Field>, dice: &mut Dice) {
    let value = match dice.below(4) {
        0 => Value::Bytes(text(dice)),
        1 => extreme(&Value::Fixed64(0), dice),
        2 => extreme(&Value::Fixed32(0), dice),
        _ => extreme(&Value::Varint(0), dice),
    };
    message.push(Field { number: u32::try_from(dice.below(30)).unwrap() + 1, value });
}

fn extremes(message: &mut [Field], dice: &mut Dice, depth: u32) {
    for field in message {
        match &mut field.value {
            Value::Bytes(inner) => {
                if let Some(mut held) = fields(inner).filter(|_| depth < MOST_DEPTH) {
                    extremes(&mut held, dice, depth + 1);
                    *inner = encode(&held);
                }
            }
            number => *number = extreme(number, dice),
        }
    }
}

fn newer(message: &mut Vec<Field>, depth: u32) {
    for field in message.iter_mut() {
        if let Value::Bytes(inner) = &mut field.value
            && depth < MOST_DEPTH
            // A text that reads as a message must stay what it is. Texts begin with something that can be seen.
            && inner.first().is_some_and(|first| *first < b' ')
            && let Some(mut held) = fields(inner)
        {
            newer(&mut held, depth + 1);
            *inner = encode(&held);
        }
    }
    let unknown = [
        Value::Varint(u64::MAX),
        Value::Fixed64(7),
        Value::Fixed32(7),
        Value::Bytes("something new".as_bytes().to_vec()),
    ];
    message.extend(unknown.map(|value| Field { number: UNKNOWN_FIELD, value }));
}

impl Mangling {
    /// `None`: the answer ends here.
    fn change(&self, message: Bytes, at: u64) -> Option<Vec<u8>> {
        let mut dice = Dice(self.seed.wrapping_mul(31).wrapping_add(at));
        let mut bytes = message.to_vec();
        let known = fields(&bytes);
        match (self.how, known) {
            (How::Early, _) => return None,
            (How::Empty, _) => bytes.clear(),
            (How::Truncated, _) => bytes.truncate(dice.below(message.len())),
            (How::Newer, Some(mut message)) => {
                newer(&mut message, 0);
                bytes = encode(&message);
            }
            (How::Extremes, Some(mut message)) => {
                extremes(&mut message, &mut dice, 0);
                bytes = encode(&message);
            }
            (How::Nonsense, Some(mut message)) => {
                for _ in 0..=dice.below(3) {
                    nonsense(&mut message, &mut dice, 0);
                }
                bytes = encode(&message);
            }
            (How::Noise, _) | (_, None) => {
                for _ in 0..=dice.below(4) {
                    let at = dice.below(bytes.len() + 1);
                    let byte = u8::try_from(dice.roll() & 0xff).unwrap();
                    match bytes.get_mut(at) {
                        Some(old) => *old = byte,
                        None => bytes.push(byte),
                    }
                }
            }
        }
        Some(bytes)
    }
}

/// The body of an answer whose messages are changed on their way.
pub struct Mangled {
    body: Body,
    mangling: Mangling,
    /// Of a message that has not come whole.
    rest: BytesMut,
    count: u64,
    over: bool,
}

/// Flags, then the length.
const PREFIX: usize = 5;

impl Mangled {
    pub fn new(body: Body, mangling: Mangling) -> Self {
        Self { body, mangling, rest: BytesMut::new(), count: 0, over: false }
    }

    fn messages(&mut self, data: &[u8]) -> Bytes {
        self.rest.extend_from_slice(data);
        let mut changed = BytesMut::new();
        while !self.over && self.rest.len() >= PREFIX {
            let length = u32::from_be_bytes(self.rest[1..PREFIX].try_into().unwrap()) as usize;
            if self.rest.len() < PREFIX + length {
                break;
            }
            let message = self.rest.split_to(PREFIX + length).freeze().slice(PREFIX..);
            self.count += 1;
            match self.mangling.change(message, self.count) {
                Some(message) => {
                    changed.put_u8(0);
                    changed.put_u32(u32::try_from(message.len()).unwrap());
                    changed.put_slice(&message);
                }
                None => self.over = true,
            }
        }
        changed.freeze()
    }
}

impl http_body::Body for Mangled {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            self.over = false;
            self.body = Body::empty();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Poll::Ready(Some(Ok(Frame::data(self.messages(&data))))),
                Err(frame) => Poll::Ready(Some(Ok(frame))),
            },
            other => other,
        }
    }
}
