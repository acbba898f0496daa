//! The runtime of commands that wait and, where the command line alone says that a run goes to Modal, the connection
//! whose opening begins before the configuration is read.

use tokio::runtime::Runtime;

use super::account;
use super::ambient::Ambient;
use super::error::CommandError;
use crate::backend::modal::Access;
use crate::config::model::{Route, Valued};
use crate::domain::Place;

/// What is under way when the configuration has been read.
pub struct Underway {
    pub runtime: Runtime,
    /// Where connecting has begun.
    pub access: Option<Access>,
}

impl Underway {
    /// Connects to nothing.
    pub fn plain() -> Result<Self, CommandError> {
        Ok(Self { runtime: runtime()?, access: None })
    }

    /// Does `work`, which waits for nothing, while a connection to Modal is opened if `on` says that there will be
    /// use for it. When the work fails nothing is waited for.
    pub fn beside<T: Send>(
        on: Option<&Valued<Route>>,
        ambient: &Ambient,
        work: impl FnOnce() -> Result<T, CommandError> + Send,
    ) -> Result<(T, Self), CommandError> {
        if !on.is_some_and(|on| matches!(on.value, Route::To(Place::Modal))) {
            return Ok((work()?, Self::plain()?));
        }
        let runtime = runtime()?;
        let mut access = account::access(&ambient.variables, ambient.network());
        access.begin(runtime.handle());
        match while_driven(&runtime, work) {
            Ok(done) => Ok((done, Self { runtime, access: Some(access) })),
            Err(error) => {
                // A name that is being looked up cannot be interrupted.
                runtime.shutdown_background();
                Err(error)
            }
        }
    }
}

/// The runtime of commands that wait: one thread, made only by them.
pub fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::failed(format!("cannot start: {error}")))
}

/// The runtime has one thread, so what it carries goes on only while that thread waits: the work gets another.
fn while_driven<T: Send>(runtime: &Runtime, work: impl FnOnce() -> T + Send) -> T {
    let (done, finished) = tokio::sync::oneshot::channel::<()>();
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            // Dropped at the end of the work, however it ends.
            let _done = done;
            work()
        });
        let _ = runtime.block_on(finished);
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::cli::ambient::Variables;
    use crate::config::model::{Layer, Origin};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
    const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

    fn has_caller(listener: &TcpListener, patience: &Timespec) -> bool {
        poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(patience)).unwrap() == 1
    }

    fn on(place: Place) -> Valued<Route> {
        let origin = Origin { layer: Layer::Flag("--on".to_owned()), location: None };
        Valued { value: Route::To(place), origin }
    }

    fn around(listener: &TcpListener, variables: &[(&str, &str)]) -> Ambient {
        let server = format!("http://{}", listener.local_addr().unwrap());
        let server = [("MODAL_SERVER_URL", server.as_str())];
        let variables = variables.iter().chain(&server);
        let mut ambient = Ambient::collect();
        ambient.variables =
            Variables(variables.map(|(name, value)| ((*name).into(), (*value).into())).collect());
        ambient
    }

    const TOKEN: [(&str, &str); 2] = [("MODAL_TOKEN_ID", "ak-1"), ("MODAL_TOKEN_SECRET", "as-1")];

    #[test]
    fn a_run_for_modal_connects_before_its_configuration_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let read = || Ok(has_caller(&listener, &PATIENCE));
        let (seen, underway) =
            Underway::beside(Some(&on(Place::Modal)), &around(&listener, &TOKEN), read).unwrap();
        assert!(seen, "somebody connects while the configuration is still being read");
        assert!(underway.access.is_some());
    }

    #[test]
    fn other_runs_connect_to_nothing() {
        for (place, variables) in
            [(Some(on(Place::Local)), &TOKEN[..]), (None, &TOKEN), (Some(on(Place::Modal)), &[])]
        {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let ambient = around(&listener, variables);
            Underway::beside(place.as_ref(), &ambient, || Ok(())).unwrap();
            assert!(!has_caller(&listener, &AT_ONCE), "{place:?}");
        }
    }

    #[test]
    fn a_failure_to_read_does_not_wait_for_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let read = || Err::<(), _>(CommandError::usage("no such file"));
        assert!(Underway::beside(Some(&on(Place::Modal)), &around(&listener, &TOKEN), read).is_err());
    }
}
