use super::*;
use crate::types::limits::FRAME_PREFIX_SIZE;
use futures::FutureExt;

const MIB: usize = 1 << 20;
const KIB: usize = 1 << 10;
const LIMIT: usize = 64 * MIB; // 8 of them for first buffers.
const START: Mono = Mono(0);

fn seconds(count: u64) -> Mono {
    START.after(Duration::from_secs(count))
}

fn buffer(memory: &Rc<ReceiveMemory>) -> ReceiveBuffer {
    ReceiveBuffer::new(vec![0; RECEIVE_BUFFER_SIZE], memory, START)
}

/// As much as fits of a request of `needed` bytes, prefix included, has come.
fn receive(buffer: &mut ReceiveBuffer, needed: usize, mut count: usize) -> usize {
    let prefix = ((needed - 4) as u32).to_be_bytes();
    let start = buffer.end - buffer.start;
    for (at, byte) in prefix.iter().enumerate().skip(start).take(count) {
        buffer.bytes[buffer.start + at] = *byte;
    }
    count = count.min(buffer.free().len());
    buffer.filled(count);
    count
}

/// A client that sends a request of `needed` bytes as fast as it may. True once it is there.
fn go_on(buffer: &mut ReceiveBuffer, needed: usize) -> bool {
    loop {
        receive(buffer, needed, usize::MAX);
        match buffer.next(usize::MAX).unwrap() {
            Received::Request(_) => return true,
            Received::Part { needed } => {
                buffer.make_room(needed, START);
                let more = buffer.wants(needed);
                if more > 0 && buffer.may_grow(more, needed, START) != Growth::Now {
                    return false;
                }
                buffer.grow(more, START);
            }
        }
    }
}

#[test]
fn what_is_announced_costs_nothing_until_it_comes() {
    let memory = ReceiveMemory::new(LIMIT);
    let mut large = buffer(&memory);
    let needed = 50 * MIB;
    let mut came = 0;
    while came < needed {
        came += receive(&mut large, needed, 100 * KIB);
        let Received::Part { needed } = large.next(usize::MAX).unwrap() else { break };
        large.make_room(needed, START);
        let more = large.wants(needed);
        assert!(more == 0 || large.may_grow(more, needed, START) == Growth::Now);
        if more > 0 {
            large.grow(more, START);
        }
        let bound = RECEIVE_BUFFER_SIZE.max(2 * came + 2 * SOCKET_READ_SIZE_MIN);
        assert!(memory.used() <= bound, "{} bytes are held for {came}", memory.used());
    }
    assert_eq!(memory.used(), needed);
    drop(large);
    assert_eq!((memory.used(), memory.growing.borrow().len()), (0, 0));
}

#[test]
fn a_request_of_one_buffer_is_never_copied_but_from_its_end_to_its_start() {
    let memory = ReceiveMemory::new(LIMIT);
    let mut usual = buffer(&memory);
    let at = usual.bytes.as_ptr();
    let needed = 65_000;
    let mut taken = 0;
    let mut moves = 0;
    while taken < 1000 {
        let room = usual.free().len();
        receive(&mut usual, needed, room.min(50_000));
        // Prefixes come at any place.
        loop {
            if usual.end - usual.start >= 4 {
                let start = usual.start;
                usual.bytes[start..start + 4].copy_from_slice(&((needed - 4) as u32).to_be_bytes());
            }
            let Received::Part { needed } = usual.next(usize::MAX).unwrap() else {
                taken += 1;
                continue;
            };
            let before = usual.start;
            usual.make_room(needed, START);
            moves += usize::from(usual.start != before);
            assert_eq!(usual.wants(needed), 0);
            break;
        }
    }
    assert_eq!((usual.bytes.as_ptr(), memory.used()), (at, RECEIVE_BUFFER_SIZE));
    assert!(moves <= taken / 3, "{moves} moves for {taken} requests");
}

#[test]
fn the_largest_request_that_a_configuration_takes_is_received() {
    for budget in [64 * MIB, 100 * MIB, 1024 * MIB] {
        let plan = MemoryPlan::new(budget);
        let size_max = plan.request_size_max();
        let memory = ReceiveMemory::new(plan.receive);
        assert!(go_on(&mut buffer(&memory), FRAME_PREFIX_SIZE + size_max));
        let mut larger = memory.take(RECEIVE_BUFFER_SIZE);
        assert_eq!(larger.may_grow(1, FRAME_PREFIX_SIZE + size_max + 1, START), Growth::Refused);
    }
}

/// Both hold more than the half: neither could come to its end if both got what they ask for.
#[test]
fn large_requests_do_not_wait_for_each_other() {
    let memory = ReceiveMemory::new(LIMIT);
    for count in [2, 3, 10, 40] {
        let mut waiting: Vec<ReceiveBuffer> = (0..count).map(|_| buffer(&memory)).collect();
        let sizes = |at: usize| (20 + at % 7 * 5) * MIB;
        let mut done = vec![false; count];
        let mut rounds = 0;
        while done.iter().any(|done| !done) {
            rounds += 1;
            assert!(rounds <= count + 1, "{count} requests wait for each other: {done:?}");
            for at in 0..count {
                if !done[at] && go_on(&mut waiting[at], sizes(at)) {
                    done[at] = true;
                    waiting[at] = ReceiveBuffer::new(Vec::new(), &memory, START);
                }
            }
        }
        drop(waiting);
        assert_eq!(memory.used(), 0);
    }
}

#[test]
fn small_requests_find_room_whatever_large_ones_hold() {
    let memory = ReceiveMemory::new(LIMIT);
    let mut large: Vec<ReceiveBuffer> = (0..20).map(|_| buffer(&memory)).collect();
    for buffer in &mut large {
        go_on(buffer, 55 * MIB);
    }
    assert!(memory.used() > LIMIT / 2);
    for _ in 0..100 {
        assert!(memory.has_first_buffer());
        let mut small = buffer(&memory);
        assert!(go_on(&mut small, 100_000));
    }
}

/// What they do not send keeps nobody out; what they send waits for small ones, and not for long.
#[test]
fn small_requests_find_room_whatever_large_ones_announce() {
    let memory = ReceiveMemory::new(8 * MIB);
    let mut large: Vec<ReceiveBuffer> = Vec::new();
    while memory.has_first_buffer() {
        let mut announced = buffer(&memory);
        receive(&mut announced, 7 * MIB, 65 * KIB);
        announced.make_room(7 * MIB, START);
        large.push(announced);
    }
    assert_eq!(large.len(), 4);
    let small = || memory.has_small_buffer().then(|| buffer(&memory));
    let mut held: Vec<ReceiveBuffer> = std::iter::from_fn(small).collect();
    assert!(held.len() > 10);
    // Once the nearest has come as far as it may it waits for them: no more are given out.
    assert!(!go_on(&mut large[0], 7 * MIB));
    held.truncate(2);
    assert!(small().is_none());
    assert!(!go_on(&mut large[0], 7 * MIB));
    held.clear();
    let _one = small().expect("it goes on beside one");
    assert!(small().is_none());
    assert!(go_on(&mut large[0], 7 * MIB));
}

/// Many connections have sent the first bytes of a request each and do not go on.
#[test]
fn half_requests_shrink_to_what_has_come_and_can_all_be_finished() {
    let memory = ReceiveMemory::new(LIMIT);
    let mut half: Vec<ReceiveBuffer> = Vec::new();
    while memory.has_first_buffer() {
        let mut part = buffer(&memory);
        receive(&mut part, 200_000, 10);
        half.push(part);
    }
    assert_eq!(half.len(), (LIMIT - LIMIT / 8) / RECEIVE_BUFFER_SIZE, "all but the reserve");
    let freed = half.iter_mut().filter_map(ReceiveBuffer::shrink).count();
    assert_eq!(freed, half.len());
    assert!(memory.used() <= half.len() * 9 * KIB, "{}", memory.used());
    assert!(half.iter_mut().all(|part| go_on(part, 200_000)));
}

#[test]
fn a_buffer_that_is_needed_does_not_shrink() {
    let memory = ReceiveMemory::new(LIMIT);
    let mut filled = buffer(&memory);
    receive(&mut filled, 200_000, 100_000);
    assert!(filled.shrink().is_none(), "twice as much would not be much less");
    let mut at_the_end = buffer(&memory);
    at_the_end.filled(RECEIVE_BUFFER_SIZE - 1000);
    at_the_end.start = at_the_end.end - 10;
    assert!(at_the_end.shrink().is_none(), "a read of a thousand bytes may be under way");
    let mut shrunk = buffer(&memory);
    receive(&mut shrunk, 200_000, 10);
    assert_eq!(shrunk.shrink().map(|bytes| bytes.len()), Some(RECEIVE_BUFFER_SIZE));
    assert!(shrunk.free().len() >= SOCKET_READ_SIZE_MIN);
    assert!(shrunk.shrink().is_none());
    assert_eq!(shrunk.end - shrunk.start, 10);
}

/// Every one of many clients has sent the first part of its request before any of them goes on.
#[test]
fn first_buffers_leave_large_requests_their_end() {
    for (limit, needed) in
        [(8 * MIB, MIB), (LIMIT, MIB), (LIMIT, 8 * MIB), (8 * MIB, 5 * MIB), (8 * MIB, 7 * MIB)]
    {
        let memory = ReceiveMemory::new(limit);
        let mut waiting: Vec<ReceiveBuffer> = Vec::new();
        while memory.has_first_buffer() {
            let mut first = buffer(&memory);
            // Of those that the reserve finishes, no prefix is read before all have come.
            if needed > limit / 8 {
                receive(&mut first, needed, usize::MAX);
                first.make_room(needed, START);
            }
            waiting.push(first);
        }
        assert!(waiting.len() > 1);
        while !waiting.is_empty() {
            let before = waiting.len();
            waiting.retain_mut(|request| !go_on(request, needed));
            assert!(waiting.len() < before, "{before} requests of {needed} bytes wait in {limit}");
            assert!(!memory.is_stuck());
            // A small client takes whatever first buffer it finds.
            let small: Vec<ReceiveBuffer> =
                std::iter::from_fn(|| memory.has_first_buffer().then(|| buffer(&memory))).collect();
            waiting.retain_mut(|request| !go_on(request, needed));
            drop(small);
        }
        assert_eq!(memory.used(), 0);
    }
}

/// It is known to be large before any of them, and they before it comes to its end.
#[test]
fn the_nearest_comes_to_its_end_whatever_first_buffers_turn_out_to_be() {
    for (limit, needed) in [(8 * MIB, MIB), (8 * MIB, 4 * MIB), (LIMIT, 20 * MIB), (LIMIT, 32 * MIB)] {
        let memory = ReceiveMemory::new(limit);
        let mut nearest = buffer(&memory);
        receive(&mut nearest, needed, usize::MAX);
        nearest.make_room(needed, START);
        let mut others: Vec<ReceiveBuffer> =
            std::iter::from_fn(|| memory.has_first_buffer().then(|| buffer(&memory))).collect();
        for other in &mut others {
            receive(other, limit / 8 * 7, usize::MAX);
            other.make_room(limit / 8 * 7, START);
        }
        assert!(go_on(&mut nearest, needed), "{needed} bytes in {limit}, {} others", others.len());
    }
}

/// Small requests that come and go without end hold all first buffers there are.
#[test]
fn a_large_request_goes_on_beside_any_number_of_small_ones() {
    let memory = ReceiveMemory::new(8 * MIB);
    let mut small: Vec<ReceiveBuffer> =
        std::iter::from_fn(|| memory.has_first_buffer().then(|| buffer(&memory))).collect();
    let mut large = small.pop().expect("there is room for one");
    assert!(go_on(&mut large, MIB));
    drop(large);
    let mut larger = small.pop().expect("there is room for one");
    assert!(!go_on(&mut larger, 2 * MIB));
    while !go_on(&mut larger, 2 * MIB) {
        small.pop().expect("it goes on before the last of them has gone");
        if memory.has_first_buffer() {
            small.push(buffer(&memory));
        }
    }
    assert!(small.len() > 20);
}

/// First buffers are given out before it is known what comes.
#[test]
fn who_has_the_most_to_come_goes_only_if_nobody_could_come_to_an_end() {
    let memory = ReceiveMemory::new(8 * MIB);
    let mut waiting: Vec<ReceiveBuffer> =
        std::iter::from_fn(|| memory.has_first_buffer().then(|| buffer(&memory))).collect();
    assert!(!memory.is_stuck());
    assert!(waiting.iter_mut().all(|request| !go_on(request, 3 * MIB)));
    assert!(memory.is_stuck());
    while memory.is_stuck() {
        waiting.pop();
    }
    while !waiting.is_empty() {
        let before = waiting.len();
        waiting.retain_mut(|request| !go_on(request, 3 * MIB));
        assert!(waiting.len() < before);
    }
}

#[test]
fn a_wait_ends_once_nobody_comes_to_an_end() {
    let memory = ReceiveMemory::new(LIMIT);
    let others = memory.take(LIMIT - RECEIVE_BUFFER_SIZE);
    let mut large = memory.take(RECEIVE_BUFFER_SIZE);
    let moment = Duration::from_millis(1);
    let last = START.after(RECEIVE_GROW_WAIT_MAX - moment);
    assert_eq!(large.may_grow(1, MIB, START), Growth::Wait(RECEIVE_GROW_WAIT_MAX));
    assert_eq!(large.may_grow(1, MIB, last), Growth::Wait(moment));
    let mut other = memory.take(1);
    other.needs(MIB);
    other.settle();
    assert_eq!(large.may_grow(1, MIB, last), Growth::Wait(RECEIVE_GROW_WAIT_MAX));
    assert_eq!(large.may_grow(1, MIB, last.after(RECEIVE_GROW_WAIT_MAX)), Growth::Refused);
    drop((others, other));
    assert_eq!(large.may_grow(1, LIMIT, last), Growth::Refused, "it would wait for nothing");
    assert_eq!(large.may_grow(1, MIB, last), Growth::Now);
}

#[test]
fn whoever_waits_is_woken_by_what_is_given_back_and_not_before() {
    let memory = ReceiveMemory::new(3 * RECEIVE_BUFFER_SIZE);
    let mut first = buffer(&memory);
    let second = buffer(&memory);
    let mut freed = Box::pin(memory.freed.notified());
    assert!(freed.as_mut().now_or_never().is_none());
    receive(&mut first, 1000, 10);
    assert!(freed.as_mut().now_or_never().is_none());
    drop(second);
    assert!(freed.as_mut().now_or_never().is_some());
    assert!(memory.has_first_buffer(), "what is given back is there when they look");
    let mut freed = Box::pin(memory.freed.notified());
    assert!(freed.as_mut().now_or_never().is_none());
    first.shrink().expect("it is hardly filled");
    assert!(freed.as_mut().now_or_never().is_some());
}

#[test]
fn whoever_waits_is_woken_when_a_large_request_comes_to_its_end() {
    let memory = ReceiveMemory::new(LIMIT);
    for needed in [RECEIVE_BUFFER_SIZE - KIB, MIB] {
        let mut large = buffer(&memory);
        receive(&mut large, needed, 10);
        large.shrink().expect("it is hardly filled");
        let mut freed = memory.freed.notified();
        assert!((&mut freed).now_or_never().is_none());
        assert!(go_on(&mut large, needed));
        assert!(freed.now_or_never().is_some());
    }
}

#[test]
fn a_step_is_a_new_request_or_more_room_and_not_a_byte() {
    let memory = ReceiveMemory::new(LIMIT);
    let mut slow = buffer(&memory);
    let needed = MIB;
    receive(&mut slow, needed, 10);
    for second in 1..20 {
        receive(&mut slow, needed, 1);
        slow.next(usize::MAX).unwrap();
        slow.make_room(needed, seconds(second));
        assert_eq!(slow.step_since(), START);
    }
    slow.grow(1, seconds(20));
    assert_eq!(slow.step_since(), seconds(20));
    let mut quick = buffer(&memory);
    receive(&mut quick, 1000, 1000);
    assert!(matches!(quick.next(usize::MAX), Ok(Received::Request(_))));
    receive(&mut quick, 1000, 10);
    assert_eq!(quick.next(usize::MAX), Ok(Received::Part { needed: 1000 }));
    quick.make_room(1000, seconds(30));
    assert_eq!(quick.step_since(), seconds(30));
}

#[test]
fn the_largest_of_those_that_make_no_step_go_until_there_is_room() {
    let client = |held, since| Some(Holder { held, state: HolderState::Client { since: seconds(since) } });
    let growing =
        |left, since| Some(Holder { held: MIB, state: HolderState::Growing { since: seconds(since), left } });
    let go = |holders: &[Option<Holder>], is_stuck, wanted| -> Vec<usize> {
        let going = slowest(holders.iter().copied(), is_stuck, wanted, seconds(20));
        going.into_iter().map(|(at, ..)| at).collect()
    };
    let holders = [client(10, 0), None, client(30, 9), client(20, 10), client(40, 11), growing(50, 0)];
    assert_eq!(go(&holders, false, 1), [2]);
    assert_eq!(go(&holders, false, 31), [2, 3], "as many as cover it");
    assert_eq!(go(&holders, false, MIB), [2, 3, 0]);
    assert_eq!(go(&holders, true, 1), [2], "who is slow goes before who waits");
    let waiting = [client(40, 11), growing(50, 20), growing(30, 0)];
    assert!(go(&waiting, false, MIB).is_empty(), "they wait for us");
    assert_eq!(go(&waiting, true, MIB), [1], "the one with the most to come");
    assert!(go(&[], true, 1).is_empty());
}
