------------------------------- MODULE Stream -------------------------------
(***************************************************************************)
(* A guaranteed stream of the mesh: one origin, one destination, between   *)
(* them links that lose, repeat and reorder frames, and both ends may be   *)
(* started anew. (Frames: streamData, streamAcknowledgement.)              *)
(*                                                                         *)
(* A stream is (origin, origin's epoch, destination, destination's epoch). *)
(* The origin keeps every event in its spool until the destination has     *)
(* acknowledged it. The destination acknowledges what its queues have      *)
(* taken ("settled"), not what it has merely received. A new epoch of the  *)
(* destination renumbers the unacknowledged events from 1 and flags them   *)
(* possible duplicates; a new epoch of the origin discards the             *)
(* destination's state.                                                    *)
(*                                                                         *)
(* The spool is in memory: what only a dead life of the origin held is     *)
(* lost. The destination's queue outlives it here: the harder case, for an *)
(* event can then be in the queue although nobody remembers its number.    *)
(*                                                                         *)
(* Shown: I9 (nothing that a living origin has accepted is lost, nothing   *)
(* is in the queue twice unless the second is flagged), I10 (order).       *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
  Events,          \* how many events are published
  Window,          \* how many may be on their way
  OriginStarts,    \* how often the origin may be started anew
  DestStarts,      \* how often the destination may be
  CanLose,         \* frames get lost: for liveness; else a frame that is never looked at is lost
  \* Mutants: each FALSE in the protocol, and TRUE must make a property fail.
  NoEpochs,        \* frames and acknowledgements of former lives count
  NoDeduplication, \* a number that has been taken is taken again
  EarlyAck,        \* what is received is acknowledged before it is settled
  NoFlag,          \* renumbered events are not flagged
  SameEpoch,       \* a destination's new life has the epoch of the old one
  KeepState,       \* a new origin epoch does not discard the destination's state
  NoResend         \* what was lost is not sent again

VARIABLES
  published,   \* events 1..published have been accepted from the publisher
  originEpoch,
  seen,        \* the destination's epoch as the origin knows it
  spool,       \* origin: the unacknowledged events in order; the first has the number base + 1
  base,        \* origin: numbers up to here are acknowledged
  gone,        \* events that only a dead life of the origin held
  suspects,    \* origin: events that may be in the queue already
  destEpoch,
  known,       \* destination: the origin's epoch its state belongs to
  taken,       \* destination: numbers up to here were handed to the queues
  settling,    \* destination: <<event, flagged, origin's epoch>> handed over and not settled, in order
  held,        \* destination: frames beyond a gap
  queue,       \* what the queue has taken: <<event, flagged>>
  channel      \* frames on their way

vars == <<published, originEpoch, seen, spool, base, gone, suspects, destEpoch, known, taken, settling, held, queue,
          channel>>
origin == <<published, originEpoch, seen, spool, base, gone, suspects>>
dest == <<destEpoch, known, taken, settling, held, queue>>

Data(number) ==
  [kind |-> "data", from |-> originEpoch, to |-> seen, number |-> base + number, event |-> spool[number],
   flagged |-> spool[number] \in suspects]

Init ==
  /\ published = 0 /\ originEpoch = 1 /\ seen = 1 /\ spool = <<>> /\ base = 0 /\ gone = {} /\ suspects = {}
  /\ destEpoch = 1 /\ known = 1 /\ taken = 0 /\ settling = <<>> /\ held = {} /\ queue = <<>>
  /\ channel = {}

-----------------------------------------------------------------------------
(* The origin. *)

(* An event goes into the spool; with that the publisher has its receipt. *)
Publish ==
  /\ published < Events
  /\ published' = published + 1
  /\ spool' = Append(spool, published + 1)
  /\ UNCHANGED <<originEpoch, seen, base, gone, suspects, dest, channel>>

(* Sends a frame inside the window, for the first time or again. *)
Send(number) ==
  /\ number <= Len(spool) /\ number <= Window
  /\ Data(number) \notin channel
  /\ channel' = channel \cup {Data(number)}
  /\ UNCHANGED <<origin, dest>>

(* What has been acknowledged leaves the spool. *)
ReceiveAck(ack) ==
  /\ ack \in channel /\ ack.kind = "ack"
  /\ NoEpochs \/ (ack.from = originEpoch /\ ack.to = seen)
  /\ ack.number > base /\ ack.number <= base + Len(spool)
  /\ spool' = SubSeq(spool, ack.number - base + 1, Len(spool))
  /\ base' = ack.number
  /\ UNCHANGED <<published, originEpoch, seen, gone, suspects, dest, channel>>

(* The link state tells of a new life of the destination: everything is numbered anew and may be a repetition. *)
LearnDest ==
  /\ seen # destEpoch /\ ~NoEpochs
  /\ seen' = destEpoch
  /\ base' = 0
  /\ suspects' = IF NoFlag THEN suspects ELSE suspects \cup {spool[i] : i \in 1..Len(spool)}
  /\ UNCHANGED <<published, originEpoch, spool, gone, dest, channel>>

(* A new life of the origin: the spool in memory is gone. *)
RestartOrigin ==
  /\ originEpoch <= OriginStarts
  /\ originEpoch' = originEpoch + 1
  /\ gone' = gone \cup {spool[i] : i \in 1..Len(spool)}
  /\ spool' = <<>> /\ base' = 0 /\ suspects' = {}
  /\ UNCHANGED <<published, seen, dest, channel>>

-----------------------------------------------------------------------------
(* The destination. *)

(* Numbers that follow without a gap go to the queues in their order, with what was held behind them. *)
RECURSIVE Run(_, _)
Run(number, frames) ==
  LET next == {f \in frames : f.number = number}
  IN IF next = {} THEN <<>>
     ELSE LET f == CHOOSE f \in next : TRUE IN <<<<f.event, f.flagged, f.from>>>> \o Run(number + 1, frames)

IsMeant(f) == NoEpochs \/ (f.from = known /\ f.to = destEpoch)

ReceiveData(f) ==
  /\ f \in channel /\ f.kind = "data" /\ IsMeant(f)
  /\ f.number <= taken + Window
  /\ IF NoDeduplication /\ f.number <= taken
       THEN /\ settling' = Append(settling, <<f.event, f.flagged, f.from>>)
            /\ UNCHANGED <<taken, held>>
       ELSE /\ f.number > taken
            /\ \A h \in held : h.number # f.number
            /\ LET all == held \cup {f}
                   run == Run(taken + 1, all)
               IN /\ settling' = settling \o run
                  /\ taken' = taken + Len(run)
                  /\ held' = {h \in all : h.number > taken + Len(run)}
  /\ UNCHANGED <<origin, destEpoch, known, queue, channel>>

(* The queues have taken an event. *)
Settle ==
  /\ settling # <<>>
  /\ queue' = Append(queue, <<Head(settling)[1], Head(settling)[2]>>)
  /\ settling' = Tail(settling)
  /\ UNCHANGED <<origin, destEpoch, known, taken, held, channel>>

(* Everything up to the last settled number, whenever asked: a repeated frame is acknowledged again. *)
Acknowledge ==
  LET unsettled == Cardinality({i \in 1..Len(settling) : settling[i][3] = known})
      number == IF EarlyAck THEN taken ELSE taken - unsettled
      ack == [kind |-> "ack", from |-> known, to |-> destEpoch, number |-> number]
  IN /\ ~NoDeduplication \/ settling = <<>>
     /\ number > 0 /\ ack \notin channel
     /\ channel' = channel \cup {ack}
     /\ UNCHANGED <<origin, dest>>

(* The link state tells of a new life of the origin. *)
LearnOrigin ==
  /\ known # originEpoch
  /\ known' = originEpoch
  /\ IF KeepState THEN UNCHANGED <<taken, held>> ELSE taken' = 0 /\ held' = {}
  \* What was handed to the queues stays with them.
  /\ UNCHANGED <<origin, destEpoch, settling, queue, channel>>

(* A new life of the destination: it knows no numbers; what was not settled is gone. *)
RestartDest ==
  /\ destEpoch <= DestStarts
  /\ destEpoch' = IF SameEpoch THEN destEpoch ELSE destEpoch + 1
  /\ taken' = 0 /\ settling' = <<>> /\ held' = {}
  /\ UNCHANGED <<origin, known, queue, channel>>

-----------------------------------------------------------------------------
(* The channel loses frames. Without this a frame that is never looked at is lost; frames are never used up, so each *)
(* may arrive any number of times and in any order. *)
Lose(f) == CanLose /\ f \in channel /\ channel' = channel \ {f} /\ UNCHANGED <<origin, dest>>

Next ==
  \/ Publish \/ LearnDest \/ RestartOrigin \/ Settle \/ Acknowledge \/ LearnOrigin \/ RestartDest
  \/ \E number \in 1..Window : Send(number)
  \/ \E f \in channel : (f.kind = "data" /\ ReceiveData(f)) \/ (f.kind = "ack" /\ ReceiveAck(f)) \/ Lose(f)

(* Whoever sends again and again gets through at last, and timers fire. *)
Receive(number) == \E f \in channel : f.kind = "data" /\ f.number = number /\ ReceiveData(f)
ReceiveAnyAck == \E f \in channel : f.kind = "ack" /\ ReceiveAck(f)
Fair ==
  /\ WF_vars(LearnDest) /\ WF_vars(LearnOrigin) /\ WF_vars(Settle) /\ WF_vars(Acknowledge)
  /\ \A number \in 1..Window : NoResend \/ SF_vars(Send(number))
  /\ \A number \in 1..Events : SF_vars(Receive(number))
  /\ SF_vars(ReceiveAnyAck)

Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ Fair

-----------------------------------------------------------------------------
(* Positions in the queue of an event. *)
Places(event) == {i \in 1..Len(queue) : queue[i][1] = event}

(* I9: in the queue once; again only with the flag. *)
NoUnflaggedDuplicate == \A i, j \in 1..Len(queue) : (i < j /\ queue[i][1] = queue[j][1]) => queue[j][2]

(* I9: what has been accepted is in the queue or still in the spool, unless it was lost with its only holder. *)
NeverTrimmedEarly ==
  \A e \in 1..published : e \in gone \/ Places(e) # {} \/ \E i \in 1..Len(spool) : spool[i] = e

(* I10: an event that is there for the first time comes after all earlier ones. *)
Ordered == \A i, j \in 1..Len(queue) : (i < j /\ ~queue[j][2]) => queue[i][1] < queue[j][1]

(* Nothing is held beyond the window. *)
Bounded == Cardinality(held) < Window /\ \A h \in held : h.number <= taken + Window

(* I9: in the end everything is in the queue, whatever the destination does, unless it was lost with its holder. *)
Delivered == \A e \in 1..Events : (published >= e) ~> (Places(e) # {} \/ e \in gone)
(* And the spool becomes empty. *)
Drained == []<>(spool = <<>> \/ published < Events)
=============================================================================
