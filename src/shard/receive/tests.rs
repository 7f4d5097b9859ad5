use super::*;
use futures::FutureExt;

const MIB: usize = 1 << 20;
const KIB: usize = 1 << 10;
const LIMIT: usize = 64 * MIB; // 8 of them for first buffers.
const START: Mono = Mono(0);
const NOT_YET: Duration = Duration::ZERO;

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
                if more > 0 && buffer.may_grow(more, needed, NOT_YET) != Growth::Now {
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
        assert!(more == 0 || large.may_grow(more, needed, NOT_YET) == Growth::Now);
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
    assert_eq!(half.len(), LIMIT / RECEIVE_BUFFER_SIZE);
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

#[test]
fn a_wait_ends() {
    let memory = ReceiveMemory::new(LIMIT);
    let _others = memory.take(LIMIT - RECEIVE_BUFFER_SIZE);
    let mut large = memory.take(RECEIVE_BUFFER_SIZE);
    let moment = Duration::from_millis(1);
    assert_eq!(large.may_grow(1, MIB, RECEIVE_GROW_WAIT_MAX - moment), Growth::Wait(moment));
    assert_eq!(large.may_grow(1, MIB, RECEIVE_GROW_WAIT_MAX), Growth::Refused);
    assert_eq!(large.may_grow(1, LIMIT, NOT_YET), Growth::Refused, "it would wait for nothing");
}

#[test]
fn whoever_waits_is_woken_by_what_is_given_back_and_not_before() {
    let memory = ReceiveMemory::new(2 * RECEIVE_BUFFER_SIZE);
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
fn the_largest_of_those_that_make_no_step_goes_first() {
    let client = |held, since| Some(Holder { held, state: HolderState::Client { since: seconds(since) } });
    let growing =
        |left, since| Some(Holder { held: MIB, state: HolderState::Growing { since: seconds(since), left } });
    let goes = |holders: &[Option<Holder>], is_starved| {
        slowest(holders.iter().copied(), is_starved, seconds(20)).map(|(at, ..)| at)
    };
    let holders = [client(10, 0), None, client(30, 9), client(20, 10), client(40, 11), growing(50, 0)];
    assert_eq!(goes(&holders, false), Some(2));
    assert_eq!(goes(&holders, true), Some(2), "who is slow goes before who waits");
    let waiting = [client(40, 11), growing(50, 20), growing(30, 18), growing(40, 19), growing(45, 20)];
    assert_eq!(goes(&waiting, false), None, "they wait for us");
    assert_eq!(goes(&waiting, true), Some(3), "the one with the most to come");
    assert_eq!(goes(&[], true), None);
}
