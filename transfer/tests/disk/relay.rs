//! A link that can be cut, and turned to another receiver.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Passes connections on until the test ends.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    to: SocketAddr,
    open: Vec<TcpStream>,
}

impl Relay {
    pub(crate) fn to(receiver: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = Vec::new();
        let state = Arc::new(Mutex::new(State { to: receiver, open }));
        let own = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let mut state = own.lock().unwrap();
                let Ok(far) = TcpStream::connect_timeout(&state.to, Duration::from_secs(5)) else {
                    continue;
                };
                pass(&near, &far);
                pass(&far, &near);
                state.open.extend([near, far]);
            }
        });
        Self { address, state }
    }

    /// Cuts all connections; those to come go to `receiver`, if there is another one.
    pub(crate) fn cut(&self, receiver: Option<SocketAddr>) {
        let mut state = self.state.lock().unwrap();
        state.to = receiver.unwrap_or(state.to);
        for connection in state.open.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn pass(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}
