//! A Modal of the tests' own: control plane, command router and blob store on loopback, with faults to switch on.
//!
//! Owns what clients sent, the ids it gave out, the files it was given, and the sandboxes with their processes. The
//! official SDK can use it, which keeps it honest. It runs on a thread of its own, so that a test may block.
//!
//! **Where a sandbox's files are.** Commands run as real processes of this machine, as the user who runs the tests,
//! and without a container. Each sandbox has a folder that stands for its `/`. Paths of the sandbox's world are
//! rewritten to lie below that folder *wherever they occur in argv entries, in values of variables and in working
//! directories*; see [`world`] for which paths those are. Nothing else is rewritten, so a script that comes through
//! stdin or lies in a file gets its paths as arguments or variables. `PATH` is the one of the tests.

mod blob_store;
mod call;
mod control_plane;
mod faults;
mod image;
mod install;
mod link;
mod mangle;
mod process;
mod router;
mod sandbox;
mod state;
mod storage;
mod world;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;

pub use call::Call;
pub use faults::Fault;
pub use image::{Build, BuildEnd};
pub use mangle::{How, Mangling};
pub use sandbox::{AfterDeath, Death, Fate, Moment, SandboxView, Version};
pub use state::{Kind, State};

/// The server sides, as generated.
#[allow(clippy::all, clippy::pedantic, dead_code, rustdoc::all)]
mod generated {
    pub mod client {
        include!("generated/modal.client.rs");
    }
    pub mod task_command_router {
        include!("generated/modal.task_command_router.rs");
    }
}

type Shared = Arc<Mutex<State>>;

/// An unsigned token that expires at a Unix time.
pub fn jwt(expires: i64, number: u32) -> String {
    let part = |text: String| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{number}", part("{}".into()), part(format!("{{\"exp\":{expires}}}")))
}

/// The three addresses.
#[derive(Debug, Clone, Copy)]
struct Addresses {
    control_plane: SocketAddr,
    router: SocketAddr,
    blob_store: SocketAddr,
}

pub struct FakeModal {
    addresses: Addresses,
    state: Shared,
    control_plane_link: link::Link,
    router_link: link::Link,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FakeModal {
    /// For tests that are asynchronous anyway.
    #[allow(clippy::unused_async, reason = "reads well beside other things that start")]
    pub async fn start() -> Self {
        Self::serve()
    }

    /// Starts serving; everything ends with the returned value.
    pub fn serve() -> Self {
        Self::serve_with(None)
    }

    /// Tells connections to go away when they are this old.
    pub fn with_connection_age(age: Duration) -> Self {
        Self::serve_with(Some(age))
    }

    fn serve_with(age: Option<Duration>) -> Self {
        let (ready, started) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name("fake modal".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let served = Served::start(age).await;
                ready.send(served).unwrap();
                let _ = stopped.await;
            });
            runtime.shutdown_background();
        });
        let served = started.recv().unwrap();
        Self {
            addresses: served.addresses,
            state: served.state,
            control_plane_link: served.control_plane_link,
            router_link: served.router_link,
            stop: Some(stop),
            thread: Some(thread.unwrap()),
        }
    }

    /// For clients that are not accel: what accel promises about every sandbox is not asked of them.
    #[must_use]
    pub fn lenient(self) -> Self {
        self.state().lenient = true;
        self
    }

    /// Python packages of images are really installed; see [`install`]. Needs Python and its package index.
    #[must_use]
    pub fn with_packages(self) -> Self {
        self.state().install_packages = true;
        self
    }

    /// Sandboxes may outlive this value.
    pub fn allow_survivors(&self) {
        self.state().survivors_allowed = true;
    }

    /// Of the control plane, for `MODAL_SERVER_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addresses.control_plane)
    }

    pub fn router_url(&self) -> String {
        format!("http://{}", self.addresses.router)
    }

    pub fn blob_store_url(&self) -> String {
        format!("http://{}", self.addresses.blob_store)
    }

    /// What a client needs to know.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("MODAL_SERVER_URL", self.url()),
            ("MODAL_TOKEN_ID", "ak-test".to_owned()),
            ("MODAL_TOKEN_SECRET", "as-test".to_owned()),
        ]
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        state::lock(&self.state)
    }

    /// Every call is answered this much later.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// From now on connections to control plane and router are so long, each way.
    pub fn put_at(&self, distance: Duration) {
        self.control_plane_link.put_at(distance);
        self.router_link.put_at(distance);
    }

    /// The next calls of a method meet these faults, in order. Transfers are the methods `PUT`, `GET` and `POST`.
    pub fn fail(&self, method: &str, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().map(Some);
        self.state().faults.entry(method.to_owned()).or_default().extend(faults);
    }

    /// The `number`-th call of a method from now on, counted from 1, meets a fault.
    pub fn fail_nth(&self, method: &str, number: usize, fault: Fault) {
        let mut state = self.state();
        let queue = state.faults.entry(method.to_owned()).or_default();
        while queue.len() < number {
            queue.push_back(None);
        }
        queue[number - 1] = Some(fault);
    }

    /// Every call so far, in order of arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    pub fn calls_of(&self, method: &str) -> Vec<Call> {
        self.state().calls.iter().filter(|call| call.method == method).cloned().collect()
    }

    /// How many calls of a method were answered well.
    pub fn answered(&self, method: &str) -> usize {
        self.calls_of(method).iter().filter(|call| call.code == Some(0)).count()
    }

    /// Waits until this many calls have arrived, or the client is gone as `over` says.
    #[track_caller]
    pub fn wait_for_calls(&self, count: usize, over: impl Fn() -> bool) {
        self.wait_until(|| self.state().calls.len() >= count || over());
    }

    /// The same for the calls of one method.
    #[track_caller]
    pub fn wait_for_calls_of(&self, method: &str, count: usize, over: impl Fn() -> bool) {
        self.wait_until(|| self.calls_of(method).len() >= count || over());
    }

    /// Waits until no create call is under way that may still make a sandbox.
    #[track_caller]
    pub fn wait_for_creations(&self) {
        self.wait_until(|| self.state().creating == 0);
    }

    /// Waits for what only a look at this server tells.
    #[track_caller]
    pub fn wait_until(&self, holds: impl Fn() -> bool) {
        let asked = || self.calls().into_iter().map(|call| call.method).collect::<Vec<_>>();
        crate::until::wait_until(holds, || format!("alive {:?}, asked {:?}", self.alive(), asked()));
    }

    /// Waits until every sandbox has ended.
    #[track_caller]
    pub fn wait_for_ends(&self) {
        self.wait_until(|| self.alive().is_empty());
    }

    /// Drops what was noted, for tests that look at a second run alone.
    pub fn forget_calls(&self) {
        self.state().calls.clear();
    }

    /// How many calls followed one another up to the exit code: the longest chain in which each call began after the
    /// one before had ended. Set a [`delay`](Self::delay), or calls made at once look like a chain.
    pub fn sequential_round_trips(&self) -> usize {
        call::sequential_round_trips(&self.state().calls)
    }

    /// The same for all that has ended so far, where the client is [so far away](Self::put_at).
    pub fn sequential_calls_over(&self, distance: Duration) -> usize {
        let state = self.state();
        let calls: Vec<_> = state.calls.iter().collect();
        // There and back, less what timers may be early.
        call::longest_chain(&calls, distance * 2 * 9 / 10)
    }

    /// Adds a named secret.
    pub fn secret(&self, name: &str, values: &[(&str, &str)]) {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.state().named_secrets.insert(name.to_owned(), values);
    }

    /// What happens to the next sandbox; several calls are for several sandboxes.
    pub fn next_sandbox(&self, fate: Fate) {
        self.state().fates.push_back(fate);
    }

    /// What happens to every sandbox with this GPU.
    pub fn gpu(&self, kind: &str, fate: Fate) {
        self.state().gpu_fates.insert(kind.to_owned(), fate);
    }

    /// The id of an image of nothing.
    pub fn empty_image(&self) -> String {
        image::snapshot(&mut self.state())
    }

    pub fn sandboxes(&self) -> Vec<SandboxView> {
        self.state().sandboxes.values().map(sandbox::Sandbox::view).collect()
    }

    /// Sandboxes that run or wait for a place.
    pub fn alive(&self) -> Vec<SandboxView> {
        self.sandboxes().into_iter().filter(|sandbox| sandbox.result.is_none()).collect()
    }

    /// Ends a sandbox as the platform would.
    pub fn kill(&self, sandbox_id: &str, death: Death) {
        let mut state = self.state();
        let sandbox = state.sandboxes.get_mut(sandbox_id).expect("a sandbox of this server");
        sandbox.end(death.result());
    }

    /// The time of a sandbox is over.
    pub fn expire(&self, sandbox_id: &str) {
        self.kill(sandbox_id, Death::Timeout);
    }

    /// Auth tokens given out so far are no longer let in.
    pub fn expire_auth_tokens(&self) {
        self.state().auth_tokens.clear();
    }

    /// Router tokens given out so far are no longer let in.
    pub fn expire_router_tokens(&self) {
        self.state().router_tokens.clear();
    }

    /// Ids of a kind given out so far are unknown from now on.
    pub fn forget(&self, kind: Kind) {
        self.state().forget(kind);
    }

    /// Closes every connection to the control plane and to the router; new ones are let in.
    pub fn cut_connections(&self) {
        self.control_plane_link.cut();
        self.router_link.cut();
    }

    /// Connections that stand now stay open and nothing passes any more; new ones work. As after a sleep.
    pub fn strand_connections(&self) {
        self.control_plane_link.strand();
        self.router_link.strand();
    }

    /// Connections stay open and nothing passes, in either direction, until [`heal`](Self::heal).
    pub fn partition(&self) {
        self.control_plane_link.partition();
        self.router_link.partition();
    }

    pub fn heal(&self) {
        self.control_plane_link.heal();
        self.router_link.heal();
    }

    /// The files of a mount, by name.
    pub fn mount(&self, id: &str) -> Vec<accel::backend::modal::wire::client::MountFile> {
        storage::files(&self.state(), id)
    }

    /// The folder that stands for a sandbox's `/`.
    pub fn root_of(&self, sandbox_id: &str) -> std::path::PathBuf {
        self.state().sandboxes[sandbox_id].root().to_owned()
    }

    /// The folder that holds a named volume, which exists from its first use.
    pub fn volume(&self, name: &str) -> Option<std::path::PathBuf> {
        let state = self.state();
        state.volumes.iter().find(|(_, volume)| volume.name == name).map(|(id, _)| state.volume_folder(id))
    }

    /// Where everything lies that this server keeps.
    pub fn folder(&self) -> std::path::PathBuf {
        Path::to_owned(self.state().folder())
    }
}

impl Drop for FakeModal {
    fn drop(&mut self) {
        let (violations, survivors) = {
            let mut state = self.state();
            let survivors: Vec<_> = state
                .sandboxes
                .values_mut()
                .filter(|sandbox| sandbox.view().result.is_none())
                .map(|sandbox| {
                    sandbox.end(Death::Terminated.result());
                    sandbox.view().id
                })
                .collect();
            (state.violations.clone(), if state.survivors_allowed { Vec::new() } else { survivors })
        };
        drop(self.stop.take());
        let thread = self.thread.take().map(std::thread::JoinHandle::join);
        if std::thread::panicking() {
            return;
        }
        assert!(matches!(thread, Some(Ok(()))), "the fake Modal panicked");
        assert!(violations.is_empty(), "requests that accel must not send: {violations:#?}");
        assert!(survivors.is_empty(), "sandboxes were left behind: {survivors:?}");
    }
}

/// Everything that was started on the thread of the server.
struct Served {
    addresses: Addresses,
    state: Shared,
    control_plane_link: link::Link,
    router_link: link::Link,
}

impl Served {
    async fn start(age: Option<Duration>) -> Self {
        use generated::client::modal_client_server::ModalClientServer;
        use generated::task_command_router::task_command_router_server::TaskCommandRouterServer;

        let (control_plane_listener, control_plane_link, control_plane) = link::Link::open().await;
        let (router_listener, router_link, router) = link::Link::open().await;
        let blob_listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let blob_store = blob_listener.local_addr().unwrap();
        let addresses = Addresses { control_plane, router, blob_store };
        let state = Arc::new(Mutex::new(State::new(addresses)));
        let service = ModalClientServer::new(control_plane::ControlPlane(state.clone()))
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        let service =
            faults::Faulty::new(service, state.clone(), control_plane_link.clone(), control_plane::admit);
        link::serve(control_plane_listener, service, age);
        let service = TaskCommandRouterServer::new(router::Router(state.clone()))
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        let service = faults::Faulty::new(service, state.clone(), router_link.clone(), |_, _, _| Ok(()));
        link::serve(router_listener, service, age);
        tokio::spawn(blob_store::serve(blob_listener, state.clone()));
        Self { addresses, state, control_plane_link, router_link }
    }
}
