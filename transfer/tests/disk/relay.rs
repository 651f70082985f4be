//! A link that can be cut, made to lose what the receiver says, and turned to another receiver.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Passes connections on until the test ends.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    is_mute: Arc<AtomicBool>,
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
        let is_mute = Arc::new(AtomicBool::new(false));
        let [back, forth] = [Arc::clone(&is_mute), Arc::default()];
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let mut state = own.lock().unwrap();
                let Ok(far) = TcpStream::connect_timeout(&state.to, Duration::from_secs(5)) else {
                    continue;
                };
                pass(&near, &far, &forth);
                pass(&far, &near, &back);
                state.open.extend([near, far]);
            }
        });
        Self {
            address,
            state,
            is_mute,
        }
    }

    /// From now on nothing that the receiver says arrives, until all is cut.
    pub(crate) fn mute(&self) {
        self.is_mute.store(true, Ordering::Release);
    }

    /// Cuts all connections; those to come go to `receiver`, if there is another one.
    pub(crate) fn cut(&self, receiver: Option<SocketAddr>) {
        let mut state = self.state.lock().unwrap();
        state.to = receiver.unwrap_or(state.to);
        for connection in state.open.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        // Last: half of what was said is worse than nothing.
        self.is_mute.store(false, Ordering::Release);
    }
}

fn pass(from: &TcpStream, to: &TcpStream, is_mute: &Arc<AtomicBool>) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let is_mute = Arc::clone(is_mute);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            if !is_mute.load(Ordering::Acquire) && to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
