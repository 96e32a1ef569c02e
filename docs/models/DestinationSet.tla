--------------------------- MODULE DestinationSet ---------------------------
(***************************************************************************)
(* How an event gets to the nodes that want it. The node it comes from     *)
(* writes the set of destinations into the frame; every node on the way    *)
(* takes itself out and hands each of the rest to ONE next hop.            *)
(*                                                                         *)
(* Which one is left open here, at every node, for every frame and every   *)
(* destination: routes may be anything, differ between nodes and change at *)
(* any time. So loops are possible, and the time to live ends them. What   *)
(* holds here does not depend on routing.                                  *)
(*                                                                         *)
(* A link may break at any time. Frames on it may have arrived or not; the *)
(* sender keeps each until the neighbour has acknowledged it and sends the *)
(* others again some other way ("salvage"): the only way in which a        *)
(* destination can stand in two frames.                                    *)
(*                                                                         *)
(* A destination's entry carries a counter of this origin, lane and        *)
(* destination, and a tag of the destination's epoch. The destination      *)
(* takes counters in their order, holds frames beyond a gap for a while,   *)
(* then goes on without what is missing, and refuses what comes late or    *)
(* twice or was meant for another life of either end.                      *)
(*                                                                         *)
(* Shown: I1 (conservation, as an equation), I3 (bounded work), I4 (at     *)
(* most once), I11 (order).                                                *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, Sequences

CONSTANTS
  Nodes,         \* 1..N; node 1 is where the events come from
  Destinations,  \* who wants them
  Messages,      \* how many events
  TimeToLive,    \* hops of a frame
  Salvages,      \* frames that are sent again after a link has broken
  OriginStarts, DestStarts,
  \* Mutants: each FALSE in the protocol, and TRUE must make a property fail.
  NoDeduplication, \* counters are not looked at
  NoDecrement,     \* the time to live stays
  CopySet,         \* a frame for two next hops has the whole set for both
  NoTag,           \* a frame for a former life of the destination is taken
  NoOriginEpoch,   \* frames of a former life of the origin count
  KeepSelf         \* a node leaves itself in the set it passes on

Origin == 1
ASSUME Origin \notin Destinations

VARIABLES
  frames,    \* on links: [round, message, epoch, from, to, ttl, dests: a set of [node, tag, counter]]
  kept,      \* frames that their senders keep until they are acknowledged
  sent,      \* messages 1..sent have been published
  counters,  \* origin: the last counter for each destination
  seenTag,   \* origin: the life of each destination it knows
  originEpoch,
  life,      \* of each destination
  last,      \* destination: the last counter it has taken
  held,      \* destination: <<counter, message>> beyond a gap
  known,     \* destination: the origin's epoch it knows
  delivered, \* to each destination: the messages in their order
  \* Accounts, for the properties.
  ended,     \* for each message and destination: copies that were taken, refused, dropped or lost
  again,     \* for each message and destination: copies made by salvage
  crossings, \* of each message: frames put on links
  salvages

vars == <<frames, kept, sent, counters, seenTag, originEpoch, life, last, held, known, delivered, ended, again,
          crossings, salvages>>

Pairs == (1..Messages) \X Destinations

Init ==
  /\ frames = {} /\ kept = {} /\ sent = 0
  /\ counters = [d \in Destinations |-> 0] /\ seenTag = [d \in Destinations |-> 1]
  /\ originEpoch = 1 /\ life = [d \in Destinations |-> 1]
  /\ last = [d \in Destinations |-> 0] /\ held = [d \in Destinations |-> {}]
  /\ known = [d \in Destinations |-> 1] /\ delivered = [d \in Destinations |-> <<>>]
  /\ ended = [p \in Pairs |-> 0] /\ again = [p \in Pairs |-> 0]
  /\ crossings = [m \in 1..Messages |-> 0] /\ salvages = 0

-----------------------------------------------------------------------------
(* Node n passes the set `dests` on: `hop` gives each entry a neighbour, or n itself for "no route". Frames that *)
(* would have no time left are not sent. *)
(* `round` counts salvages: frames of one round differ, so a set of frames is enough. *)
Copies(n, message, epoch, dests, ttl, hop, round) ==
  LET hops == {hop[d] : d \in dests} \ {n}
  IN {[message |-> message, epoch |-> epoch, from |-> n, to |-> h, ttl |-> ttl, round |-> round,
       dests |-> IF CopySet THEN dests ELSE {d \in dests : hop[d] = h}] : h \in hops}

(* One step of forwarding: what is put on links, and what of the accounts changes. `over` are destinations whose copy *)
(* ends here, whatever the reason; `twice` those that salvage makes a second copy for. *)
Forward(n, message, epoch, dests, ttl, hop, round, others, memory, over, twice) ==
  LET copies == IF ttl = 0 THEN {} ELSE Copies(n, message, epoch, dests, ttl, hop, round)
      dropped == {d.node : d \in {e \in dests : ttl = 0 \/ hop[e] = n}}
  IN /\ frames' = others \cup copies
     /\ kept' = IF salvages' < Salvages THEN memory \cup copies ELSE {}  \* what nobody will ask for
     /\ crossings' = [crossings EXCEPT ![message] = @ + Cardinality(copies)]
     /\ ended' = [p \in Pairs |-> IF p[1] # message THEN ended[p]
                                  ELSE ended[p] + (IF p[2] \in over THEN 1 ELSE 0)
                                                + (IF p[2] \in dropped THEN 1 ELSE 0)]
     /\ again' = [p \in Pairs |-> IF p[1] = message /\ p[2] \in twice THEN again[p] + 1 ELSE again[p]]

(* The origin publishes: everybody's counter goes on. *)
Publish ==
  /\ sent < Messages
  /\ sent' = sent + 1 /\ UNCHANGED salvages
  /\ LET entries == {[node |-> d, tag |-> seenTag[d], counter |-> counters[d] + 1] : d \in Destinations}
     IN \E hop \in [entries -> Nodes] :
          Forward(Origin, sent + 1, originEpoch, entries, TimeToLive, hop, 0, frames, kept, {}, {})
  /\ counters' = [d \in Destinations |-> counters[d] + 1]
  /\ UNCHANGED <<seenTag, originEpoch, life, last, held, known, delivered>>

-----------------------------------------------------------------------------
(* Takes from `waiting` what follows `counter` without a gap. *)
RECURSIVE Run(_, _)
Run(counter, waiting) ==
  LET next == {w \in waiting : w[1] = counter}
  IN IF next = {} THEN <<>> ELSE LET w == CHOOSE w \in next : TRUE IN <<w[2]>> \o Run(counter + 1, waiting)

(* What destination d does with a frame: whose it is decides, then the counter. *)
Take(d, frame, entry) ==
  LET isOurs == (NoTag \/ entry.tag = life[d]) /\ (NoOriginEpoch \/ frame.epoch = known[d])
      waiting == held[d] \cup {<<entry.counter, frame.message>>}
      run == Run(last[d] + 1, waiting)
  IN IF ~isOurs THEN UNCHANGED <<delivered, last, held>>
     ELSE IF NoDeduplication
       THEN delivered' = [delivered EXCEPT ![d] = Append(@, frame.message)] /\ UNCHANGED <<last, held>>
     ELSE IF entry.counter <= last[d] \/ \E w \in held[d] : w[1] = entry.counter
       THEN UNCHANGED <<delivered, last, held>>
     ELSE
       /\ delivered' = [delivered EXCEPT ![d] = @ \o run]
       /\ last' = [last EXCEPT ![d] = @ + Len(run)]
       /\ held' = [held EXCEPT ![d] = {w \in waiting : w[1] > last[d] + Len(run)}]

(* A frame arrives: the node takes what is its own and passes the rest on. *)
Arrive(f) ==
  LET n == f.to
      own == {e \in f.dests : e.node = n}
      rest == IF KeepSelf THEN f.dests ELSE f.dests \ own
  IN /\ UNCHANGED salvages
     /\ \E hop \in [rest -> Nodes] :
          Forward(n, f.message, f.epoch, rest, IF NoDecrement THEN f.ttl ELSE f.ttl - 1, hop, f.round,
                  frames \ {f}, kept, {e.node : e \in own}, {})
     /\ IF own = {} THEN UNCHANGED <<delivered, last, held>>
        ELSE LET entry == CHOOSE e \in own : TRUE IN Take(n, f, entry)
     /\ UNCHANGED <<sent, counters, seenTag, originEpoch, life, known>>

(* What is missing has not come in time: the destination goes on without it. *)
GiveUp(d) ==
  /\ held[d] # {}
  /\ LET first == CHOOSE w \in held[d] : \A o \in held[d] : w[1] <= o[1]
         run == Run(first[1], held[d])
     IN /\ delivered' = [delivered EXCEPT ![d] = @ \o run]
        /\ last' = [last EXCEPT ![d] = first[1] + Len(run) - 1]
        /\ held' = [held EXCEPT ![d] = {w \in @ : w[1] >= first[1] + Len(run)}]
  /\ UNCHANGED <<frames, kept, sent, counters, seenTag, originEpoch, life, known, ended, again, crossings,
                 salvages>>

(* A link breaks with this frame unacknowledged: it may be lost, still come out of a buffer (the frame stays), or *)
(* have arrived before. Its sender sends it again. *)
Salvage(k) ==
  /\ salvages < Salvages /\ k \in kept
  /\ salvages' = salvages + 1
  /\ \E isLost \in BOOLEAN :
       /\ isLost => k \in frames
       /\ \E hop \in [k.dests -> Nodes] :
            Forward(k.from, k.message, k.epoch, k.dests, k.ttl, hop, salvages + 1,
                    IF isLost THEN frames \ {k} ELSE frames, kept \ {k},
                    IF isLost THEN {d.node : d \in k.dests} ELSE {}, {d.node : d \in k.dests})
  /\ UNCHANGED <<sent, counters, seenTag, originEpoch, life, last, held, known, delivered>>

(* New lives. The links' tails and other nodes' memories still hold frames of the old ones. *)
RestartOrigin ==
  /\ originEpoch <= OriginStarts
  /\ originEpoch' = originEpoch + 1
  /\ counters' = [d \in Destinations |-> 0]
  /\ kept' = {k \in kept : k.from # Origin}
  /\ UNCHANGED <<frames, sent, seenTag, life, last, held, known, delivered, ended, again, crossings, salvages>>

LearnOrigin(d) ==
  /\ known[d] # originEpoch
  /\ known' = [known EXCEPT ![d] = originEpoch]
  /\ last' = [last EXCEPT ![d] = 0] /\ held' = [held EXCEPT ![d] = {}]
  /\ UNCHANGED <<frames, kept, sent, counters, seenTag, originEpoch, life, delivered, ended, again, crossings,
                 salvages>>

RestartDest(d) ==
  /\ life[d] <= DestStarts
  /\ life' = [life EXCEPT ![d] = @ + 1]
  /\ last' = [last EXCEPT ![d] = 0] /\ held' = [held EXCEPT ![d] = {}]
  /\ kept' = {k \in kept : k.from # d}
  /\ UNCHANGED <<frames, sent, counters, seenTag, originEpoch, known, delivered, ended, again, crossings,
                 salvages>>

LearnDest(d) ==
  /\ seenTag[d] # life[d]
  /\ seenTag' = [seenTag EXCEPT ![d] = life[d]]
  /\ counters' = [counters EXCEPT ![d] = 0]
  /\ UNCHANGED <<frames, kept, sent, originEpoch, life, last, held, known, delivered, ended, again, crossings,
                 salvages>>

Next ==
  \/ Publish \/ RestartOrigin
  \/ \E f \in frames : Arrive(f)
  \/ \E k \in kept : Salvage(k)
  \/ \E d \in Destinations : GiveUp(d) \/ LearnOrigin(d) \/ RestartDest(d) \/ LearnDest(d)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* I1. Every copy of a destination is in exactly one frame or has ended, and there is one for the event and one for *)
(* each salvage: *)
Live(m, d) == Cardinality({f \in frames : f.message = m /\ \E e \in f.dests : e.node = d})
Conservation == \A p \in Pairs : p[1] <= sent => Live(p[1], p[2]) + ended[p] = 1 + again[p]
(* ... so without salvage no destination is in two frames. *)
Disjoint == \A p \in Pairs : again[p] = 0 => Live(p[1], p[2]) <= 1

(* I3. A frame crosses at most TimeToLive links for each destination, and once more that many for each salvage. *)
BoundedWork ==
  \A m \in 1..Messages : crossings[m] <= Cardinality(Destinations) * TimeToLive * (1 + salvages)
Ages == \A f \in frames : f.ttl >= 1

(* I4 and I11. Nobody gets an event twice, nor after a later one. *)
AtMostOnce == \A d \in Destinations : \A i, j \in 1..Len(delivered[d]) : i < j => delivered[d][i] # delivered[d][j]
Ordered == \A d \in Destinations : \A i, j \in 1..Len(delivered[d]) : i < j => delivered[d][i] <= delivered[d][j]
=============================================================================
