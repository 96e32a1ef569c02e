---------------------------- MODULE Dissemination ----------------------------
(***************************************************************************)
(* How the interest of a node gets to all others. (The link state's        *)
(* advertisements are the same with one change a message and no deltas.)   *)
(*                                                                         *)
(* Sets of different nodes do not touch one another, so one node, Origin,  *)
(* is looked at: the others hold copies of its set of filters. A copy has  *)
(* the version (epoch, number). A change makes the next number and goes    *)
(* out as a delta, which is applied only to the number it is based on.     *)
(* Whoever notices from the digests in hellos that a neighbour has another *)
(* version tells it its own and asks for what is newer: the answer is a    *)
(* delta or a snapshot, from any neighbour that has it.                    *)
(*                                                                         *)
(* An epoch is a counter kept on disk and some random bits below. A life   *)
(* without the disk starts the counter at 1 again and may be older than    *)
(* what others hold: when it hears of that, it takes a larger epoch and    *)
(* starts its numbers anew.                                                *)
(*                                                                         *)
(* To whom a delta is relayed is left open, any neighbours or none: what   *)
(* holds here holds on every tree, and on a wrong one.                     *)
(*                                                                         *)
(* Shown: I5 (nothing older is ever applied, whoever restarts), content    *)
(* always fits the version, I6 (when faults stop, everybody gets the       *)
(* newest set).                                                            *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, TLC

CONSTANTS
  Origin,        \* whose set it is
  Others,        \* the nodes beside it; all are neighbours of all
  Changes,       \* changes of the set
  OriginStarts,  \* new lives of the origin
  OtherStarts,   \* new lives of the others, all together: they begin with nothing
  Faults,        \* messages lost or doubled
  InFlight,      \* messages on their way; beyond, they are lost
  \* Mutants: each FALSE in the protocol, and TRUE must make a property fail.
  NoEpoch,       \* a new life goes on with the epoch of the old one: freshness by number alone
  WrongBase,     \* a delta is applied to whatever is there
  HashOnly,      \* what differs is taken, newer or not
  NoRaise,       \* a life that hears of a newer one of its own does nothing
  NoRepair       \* digests are not compared

Nodes == Others \cup {Origin}
Filters == {"f", "g"}
(* Epochs: a counter and one of two values of the random bits. *)
Epoch(counter, random) == counter * 2 + random
Counter(epoch) == epoch \div 2

VARIABLES
  copies,   \* for each node its version and set; Origin's own included
  disk,     \* the counter on Origin's disk
  lives,    \* epochs that Origin has had
  truth,    \* for each version that Origin has had, its set: for the properties
  messages, \* on their way
  changes, originStarts, otherStarts, faults,
  applied   \* the newest version each node has held in this life: for the properties

vars == <<copies, disk, lives, truth, messages, changes, originStarts, otherStarts, faults, applied>>

(* A version is <<epoch, number>>; <<0, 0>> is nothing. *)
Newer(a, b) == a[1] > b[1] \/ (a[1] = b[1] /\ a[2] > b[2])
Version(n) == copies[n].version
Content(n) == copies[n].set

Init ==
  /\ copies = [n \in Nodes |-> [version |-> IF n = Origin THEN <<Epoch(1, 1), 0>> ELSE <<0, 0>>, set |-> {}]]
  /\ disk = 1 /\ lives = {Epoch(1, 1)}
  /\ truth = {[version |-> <<Epoch(1, 1), 0>>, set |-> {}]}
  /\ messages = {} /\ changes = 0 /\ originStarts = 0 /\ otherStarts = 0 /\ faults = 0
  /\ applied = [n \in Nodes |-> <<0, 0>>]

(* What there is no room for gets lost. *)
Sent(kept, new) ==
  IF Cardinality(kept \cup new) <= InFlight THEN kept \cup new ELSE kept

Delta(from, to, base, number, epoch, add, del) ==
  [kind |-> "delta", from |-> from, to |-> to, epoch |-> epoch, base |-> base, number |-> number, add |-> add,
   del |-> del]

-----------------------------------------------------------------------------
(* The set changes: a filter begins or ends. The delta goes to any of the neighbours. *)
Change ==
  /\ changes < Changes
  /\ changes' = changes + 1
  /\ \E f \in Filters, to \in SUBSET Others :
       LET old == Content(Origin)
           new == IF f \in old THEN old \ {f} ELSE old \cup {f}
           v == <<Version(Origin)[1], Version(Origin)[2] + 1>>
       IN /\ copies' = [copies EXCEPT ![Origin] = [version |-> v, set |-> new]]
          /\ truth' = truth \cup {[version |-> v, set |-> new]}
          /\ messages' = Sent(messages, {Delta(Origin, n, v[2] - 1, v[2], v[1], new \ old, old \ new) : n \in to})
  /\ UNCHANGED <<disk, lives, originStarts, otherStarts, faults, applied>>

(* Origin starts a life with its own epoch: number 0, and its clients are gone. *)
NewLife(epoch) ==
  LET v == <<epoch, 0>>
  IN /\ copies' = [copies EXCEPT ![Origin] = [version |-> v, set |-> {}]]
     /\ truth' = truth \cup {[version |-> v, set |-> {}]}
     /\ lives' = lives \cup {epoch}
     /\ disk' = Counter(epoch)

(* With its disk, or with an empty one. *)
RestartOrigin ==
  /\ originStarts < OriginStarts
  /\ originStarts' = originStarts + 1
  /\ IF NoEpoch THEN NewLife(Version(Origin)[1])
     ELSE \E counter \in {disk + 1, 1}, random \in {0, 1} :
            /\ Epoch(counter, random) \notin lives  \* 16 random bits, that is: two lives do not draw the same
            /\ NewLife(Epoch(counter, random))
  /\ UNCHANGED <<messages, changes, otherStarts, faults, applied>>

RestartOther(n) ==
  /\ otherStarts < OtherStarts /\ n \in Others
  /\ otherStarts' = otherStarts + 1
  /\ copies' = [copies EXCEPT ![n] = [version |-> <<0, 0>>, set |-> {}]]
  /\ applied' = [applied EXCEPT ![n] = <<0, 0>>]
  /\ UNCHANGED <<disk, lives, truth, messages, changes, originStarts, faults>>

-----------------------------------------------------------------------------
(* The digests in hellos differ: a node tells a neighbour what it has, and thereby asks for what is newer. (On the *)
(* wire these are two frames, interestVersions and interestRequest.) *)
Ask(n, of) ==
  LET m == [kind |-> "request", from |-> n, to |-> of, have |-> Version(n)]
  IN /\ ~NoRepair /\ n # of /\ copies[n] # copies[of] /\ m \notin messages
     /\ Cardinality(messages) < InFlight
     /\ messages' = messages \cup {m}
     /\ UNCHANGED <<copies, disk, lives, truth, changes, originStarts, otherStarts, faults, applied>>

(* Takes a message off the network, or leaves a double of it there. *)
Took(m, answers) ==
  \/ messages' = Sent(messages \ {m}, answers) /\ UNCHANGED faults
  \/ faults < Faults /\ faults' = faults + 1 /\ messages' = Sent(messages, answers)

Hold(n, v, set) ==
  /\ copies' = [copies EXCEPT ![n] = [version |-> v, set |-> set]]
  /\ applied' = [applied EXCEPT ![n] = IF Newer(v, applied[n]) THEN v ELSE applied[n]]

Request(m) == [kind |-> "request", from |-> m.to, to |-> m.from, have |-> Version(m.to)]

(* A delta fits, is old, or leaves a gap that is asked for. *)
ReceiveDelta(m) ==
  LET n == m.to
      have == Version(n)
      v == <<m.epoch, m.number>>
      fits == (m.epoch = have[1] /\ m.base = have[2]) \/ (WrongBase /\ Newer(v, have))
  IN /\ m.kind = "delta" /\ n # Origin
     /\ IF fits
          THEN /\ Hold(n, v, (Content(n) \cup m.add) \ m.del)
               /\ \E to \in SUBSET (Others \ {n, m.from}) :
                    Took(m, {Delta(n, o, m.base, m.number, m.epoch, m.add, m.del) : o \in to})
          ELSE /\ Took(m, IF Newer(v, have) THEN {Request(m)} ELSE {})
               /\ UNCHANGED <<copies, applied>>
  /\ UNCHANGED <<disk, lives, truth, changes, originStarts, otherStarts>>

(* Origin hears of a life of its own that is newer than this one: it must be newer still. Clients stay, the numbers *)
(* start anew. *)
Raise(m) ==
  /\ m.kind = "request" /\ m.to = Origin /\ m.have[1] > Version(Origin)[1]
  /\ IF ~NoRaise
       THEN LET epoch == Epoch(Counter(m.have[1]) + 1, 0)
                v == <<epoch, 0>>
            IN /\ copies' = [copies EXCEPT ![Origin].version = v]
               /\ truth' = truth \cup {[version |-> v, set |-> Content(Origin)]}
               /\ lives' = lives \cup {epoch}
               /\ disk' = Counter(epoch)
       ELSE UNCHANGED <<copies, truth, lives, disk>>
  /\ Took(m, {})
  /\ UNCHANGED <<changes, originStarts, otherStarts, applied>>

(* The answer to a request: a snapshot, or the last delta when that is all that is missing. *)
ReceiveRequest(m) ==
  LET n == m.to
      mine == Version(n)
      snapshot == [kind |-> "snapshot", from |-> n, to |-> m.from, version |-> mine, set |-> Content(n)]
      before == {t \in truth : t.version = <<mine[1], mine[2] - 1>>}
      deltas == IF n = Origin /\ mine[2] > 0 /\ m.have = <<mine[1], mine[2] - 1>>
                  THEN {Delta(n, m.from, mine[2] - 1, mine[2], mine[1], Content(n) \ t.set, t.set \ Content(n))
                        : t \in before}
                  ELSE {}
  IN /\ m.kind = "request" /\ (n # Origin \/ m.have[1] <= mine[1])
     /\ Took(m, IF ~Newer(mine, m.have) /\ ~HashOnly THEN {} ELSE IF deltas # {} THEN deltas ELSE {snapshot})
     /\ UNCHANGED <<copies, disk, lives, truth, changes, originStarts, otherStarts, applied>>

ReceiveSnapshot(m) ==
  /\ m.kind = "snapshot" /\ m.to # Origin
  /\ IF Newer(m.version, Version(m.to)) \/ (HashOnly /\ m.version # Version(m.to))
       THEN Hold(m.to, m.version, m.set)
       ELSE UNCHANGED <<copies, applied>>
  /\ Took(m, {})
  /\ UNCHANGED <<disk, lives, truth, changes, originStarts, otherStarts>>

Receive(m) ==
  ReceiveDelta(m) \/ Raise(m) \/ ReceiveRequest(m) \/ ReceiveSnapshot(m)

Lose(m) ==
  /\ faults < Faults /\ faults' = faults + 1
  /\ messages' = messages \ {m}
  /\ UNCHANGED <<copies, disk, lives, truth, changes, originStarts, otherStarts, applied>>

Next ==
  \/ Change \/ RestartOrigin
  \/ \E n \in Others : RestartOther(n)
  \/ \E n \in Others, of \in Nodes : Ask(n, of)
  \/ \E m \in messages : Receive(m) \/ Lose(m)

Spec == Init /\ [][Next]_vars

(* Hellos go on, and what is on its way arrives; messages overtake one another as they like. Strong fairness of the *)
(* asking, because the network may be full at times. *)
Arrive(to) == \E m \in messages : m.to = to /\ Receive(m)
Fair == \A n \in Nodes : WF_vars(Arrive(n)) /\ (n = Origin \/ \A of \in Nodes : SF_vars(Ask(n, of)))
FairSpec == Spec /\ Fair

(* The others are alike; only for safety. *)
Symmetry == Permutations(Others)

-----------------------------------------------------------------------------
(* Whoever holds a version has the set that Origin had with it. *)
Faithful == \A n \in Others : Version(n) = <<0, 0>> \/ copies[n] \in truth

(* One version never names two sets. *)
Unique == \A a, b \in truth : a.version = b.version => a.set = b.set

(* I5: in a life of a node its copy never gets older. *)
Fresh == \A n \in Others : ~Newer(applied[n], Version(n))

(* I6: in the end all have the newest set. *)
Converges == <>[](\A n \in Others : copies[n] = copies[Origin])
=============================================================================
