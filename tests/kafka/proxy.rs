//! Stands between a client and a broker: connections in, the same out, held up or cut when a test says so.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(10);

/// Forwards one port to another until it is dropped.
pub struct Proxy(Arc<State>);

#[derive(Default)]
struct State {
    is_over: AtomicBool,
    is_held: AtomicBool,
    is_cut: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub fn start(port: u16, to: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let state = Arc::new(State::default());
        std::thread::spawn({
            let state = Arc::clone(&state);
            move || {
                while !state.is_over.load(Ordering::SeqCst) {
                    match listener.accept() {
                        Ok((near, _)) if !state.is_cut.load(Ordering::SeqCst) => connect(&state, near, to),
                        // Dropping it closes it.
                        Ok(_) => {}
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                            std::thread::sleep(LOOK);
                        }
                    }
                }
            }
        });
        Proxy(state)
    }

    /// Forwards nothing; connections stay, as when a cable is pulled.
    pub fn hold(&self) {
        self.0.is_held.store(true, Ordering::SeqCst);
    }

    /// Closes all connections and every new one.
    pub fn cut(&self) {
        self.0.is_cut.store(true, Ordering::SeqCst);
        close_all(&self.0);
    }

    /// Forwards again; what was held up comes late.
    pub fn release(&self) {
        self.0.is_held.store(false, Ordering::SeqCst);
        self.0.is_cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
        close_all(&self.0);
    }
}

fn close_all(state: &State) {
    for connection in state.connections.lock().unwrap().drain(..) {
        // It may be closed already.
        let _ = connection.shutdown(Shutdown::Both);
    }
}

fn connect(state: &Arc<State>, near: TcpStream, to: u16) {
    near.set_nonblocking(false).unwrap();
    // A broker that is down refuses; so do we.
    let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { return };
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let ways = [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)];
    for (from, to) in ways {
        state.connections.lock().unwrap().push(from.try_clone().unwrap());
        let state = Arc::clone(state);
        std::thread::spawn(move || forward(&state, from, to));
    }
}

fn forward(state: &State, mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; 65_536];
    while let Ok(n_bytes @ 1..) = from.read(&mut bytes) {
        while state.is_held.load(Ordering::SeqCst) && !state.is_over.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
        }
        if to.write_all(&bytes[..n_bytes]).is_err() {
            break;
        }
    }
    // It may be closed already.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
