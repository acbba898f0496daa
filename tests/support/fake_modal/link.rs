//! What lies between clients and a service: connections that can be cut or go silent.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
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

/// Weather, and how often all connections were cut.
#[derive(Clone)]
pub struct Link(Arc<watch::Sender<(Weather, u32)>>);

impl Link {
    /// A listener for a service, behind a public address that forwards to it.
    pub async fn open() -> (TcpListener, Self, SocketAddr) {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = inner.local_addr().unwrap();
        let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = public.local_addr().unwrap();
        let (sender, receiver) = watch::channel((Weather::Fine, 0));
        tokio::spawn(async move {
            while let Ok((client, _)) = public.accept().await {
                tokio::spawn(forward(client, target, receiver.clone()));
            }
        });
        (inner, Self(Arc::new(sender)), address)
    }

    pub fn cut(&self) {
        self.0.send_modify(|(_, cuts)| *cuts += 1);
    }

    pub fn partition(&self) {
        self.0.send_modify(|(weather, _)| *weather = Weather::Silent);
    }

    pub fn heal(&self) {
        self.0.send_modify(|(weather, _)| *weather = Weather::Fine);
    }
}

async fn forward(mut client: TcpStream, target: SocketAddr, mut weather: watch::Receiver<(Weather, u32)>) {
    let cuts = weather.borrow_and_update().1;
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let copying = tokio::io::copy_bidirectional(&mut client, &mut server);
    tokio::pin!(copying);
    loop {
        let (now, cuts_now) = *weather.borrow_and_update();
        if cuts_now != cuts {
            return;
        }
        tokio::select! {
            _ = &mut copying, if now == Weather::Fine => return,
            changed = weather.changed() => if changed.is_err() { return },
        }
    }
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
