//! Times a function over many iterations: the median of several rounds, so that a neighbour's burst
//! does not count.

use std::hint::black_box;
use std::time::Duration;

use odradek_loadgen::clock;

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(50);

/// What one call costs.
pub struct Cost {
    pub nanoseconds: f64,
}

/// Calls `body` until the figure is steady.
pub fn time<T>(mut body: impl FnMut() -> T) -> Cost {
    let iterations = iterations_per_round(&mut body);
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = clock::now();
            for _ in 0..iterations {
                black_box(body());
            }
            clock::now().since(start).as_nanos() as f64 / iterations as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    Cost { nanoseconds: rounds[ROUNDS / 2] }
}

/// Doubles until a round is long enough; warms up on the way.
fn iterations_per_round<T>(body: &mut impl FnMut() -> T) -> u64 {
    let mut iterations = 1u64;
    loop {
        let start = clock::now();
        for _ in 0..iterations {
            black_box(body());
        }
        if clock::now().since(start) >= ROUND || iterations >= 1 << 40 {
            return iterations;
        }
        iterations *= 2;
    }
}
