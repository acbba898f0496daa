//! What lies between clients and a service: connections that are long, can be cut or go silent.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::transport::server::{Server, TcpIncoming};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fine,
    /// Nothing passes.
    Silent,
}

/// What happens to connections.
#[derive(Debug, Clone, Copy)]
struct Fate {
    weather: Weather,
    /// How often all connections were cut.
    cuts: u32,
    /// How often they were left open and silent for ever.
    strandings: u32,
    /// What every byte takes, each way; of connections made from now on.
    distance: Duration,
}

#[derive(Clone)]
pub struct Link(Arc<watch::Sender<Fate>>);

impl Link {
    /// A listener for a service, behind a public address that forwards to it.
    pub async fn open() -> (TcpListener, Self, SocketAddr) {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = inner.local_addr().unwrap();
        let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = public.local_addr().unwrap();
        let (sender, receiver) =
            watch::channel(Fate { weather: Weather::Fine, cuts: 0, strandings: 0, distance: Duration::ZERO });
        tokio::spawn(async move {
            while let Ok((client, _)) = public.accept().await {
                tokio::spawn(forward(client, target, receiver.clone()));
            }
        });
        (inner, Self(Arc::new(sender)), address)
    }

    pub fn put_at(&self, distance: Duration) {
        self.0.send_modify(|fate| fate.distance = distance);
    }

    pub fn cut(&self) {
        self.0.send_modify(|fate| fate.cuts += 1);
    }

    pub fn partition(&self) {
        self.0.send_modify(|fate| fate.weather = Weather::Silent);
    }

    pub fn heal(&self) {
        self.0.send_modify(|fate| fate.weather = Weather::Fine);
    }

    /// Connections that stand now stay open, and nothing passes any more; new ones work.
    pub fn strand(&self) {
        self.0.send_modify(|fate| fate.strandings += 1);
    }
}

async fn forward(client: TcpStream, target: SocketAddr, mut fate: watch::Receiver<Fate>) {
    let first = *fate.borrow_and_update();
    // Making a connection is a journey there and back, too.
    sleep(first.distance * 2).await;
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = carry(from_client, to_server, first.distance);
    let back = carry(from_server, to_client, first.distance);
    let carrying = async { tokio::join!(there, back) };
    tokio::pin!(carrying);
    loop {
        let now = *fate.borrow_and_update();
        if now.cuts != first.cuts {
            return;
        }
        let passes = now.weather == Weather::Fine && now.strandings == first.strandings;
        tokio::select! {
            _ = &mut carrying, if passes => return,
            changed = fate.changed() => if changed.is_err() { return },
        }
    }
}

/// Pieces under way on a long connection.
const UNDER_WAY: usize = 1024;
const PIECE: usize = 64 * 1024;

/// Each piece arrives so much later than it was sent, however many are under way.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, distance: Duration) {
    if distance.is_zero() {
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
        return;
    }
    let (sent, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let sending = async move {
        let mut piece = vec![0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            if sent.send((Instant::now() + distance, piece[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let arriving = async move {
        while let Some((due, piece)) = under_way.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(sending, arriving);
}

/// Serves until the runtime ends.
///
/// Connections older than `age` are told to go away, politely.
pub fn serve<S>(listener: TcpListener, service: S, age: Option<Duration>)
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let mut server = Server::builder();
    if let Some(age) = age {
        server = server.max_connection_age(age);
    }
    let serving = server.add_service(service).serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(async move { serving.await.unwrap() });
}
