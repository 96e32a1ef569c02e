"""What the tests of AMQP share: clients made of Qpid Proton's Python binding, which keep what happened to them. All of
them live on one container, hence on the test's thread: `until` is what makes time pass for them."""

import functools
import itertools
import time

from proton import Data, Delivery, Described, Handler, Link, Message, Terminus, symbol
from proton.reactor import Container, LinkOption

from node import PATIENCE, check

MEBIBYTE = bytes(number * 31 % 251 for number in range(1 << 20))
BINARY = bytes(range(256))
NUMBERS = itertools.count()
WORLD = Container()
WORLD.start()
# Without a timer the container would stop whenever nobody is connected.
WORLD.schedule(86_400, Handler())


def until(condition, what, seconds=PATIENCE):
    """Lets all clients live until `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        left = end - time.monotonic()
        if left <= 0:
            check(False, what() if callable(what) else what)
        WORLD.timeout = min(left, 0.1)
        WORLD.process()


def rest(seconds=0.2):
    """Lets all clients live for a while, and more than once however long a turn takes."""
    for _ in range(3):
        WORLD.timeout = 0.005
        WORLD.process()
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() >= end, "", seconds + 1)


class Said:
    """An error as a peer said it."""

    def __init__(self, condition):
        self.name = str(condition.name) if condition else None
        self.text = (condition.description or "") if condition else ""

    def __repr__(self):
        return f"{self.name}: {self.text}"


class Options(LinkOption):
    """What the attach says besides names."""

    def __init__(self, capabilities=(), settle=None, durable=False, expiry=None, no_local=False, filters=None,
                 copy=False, maximum=None, coordinator=False):
        self.capabilities, self.settle, self.durable, self.expiry = capabilities, settle, durable, expiry
        self.filters = dict(filters or {})
        self.copy, self.maximum, self.coordinator = copy, maximum, coordinator
        if no_local:
            self.filters[symbol("no-local")] = Described(symbol("apache.org:no-local-filter:list"), [])

    def apply(self, link):
        terminus = link.target if link.is_sender else link.source
        if self.capabilities:
            terminus.capabilities.put_array(False, Data.SYMBOL)
            terminus.capabilities.enter()
            for name in self.capabilities:
                terminus.capabilities.put_symbol(symbol(name))
            terminus.capabilities.exit()
        if self.settle is not None:
            link.snd_settle_mode = self.settle
        if self.durable:
            terminus.durability = Terminus.DELIVERIES
            terminus.expiry_policy = Terminus.EXPIRE_NEVER
        if self.expiry is not None:
            terminus.expiry_policy = self.expiry
        if self.filters:
            terminus.filter.put_dict(self.filters)
        if self.copy:
            terminus.distribution_mode = Terminus.DIST_MODE_COPY
        if self.maximum is not None:
            link.max_message_size = self.maximum
        if self.coordinator:
            terminus.type = Terminus.COORDINATOR


class End:
    """One end of a link."""

    def __init__(self, client, link):
        self.client, self.link = client, link
        self.is_open = self.is_ended = self.was_closed = False
        self.error = Said(None)
        client.links[(link.name, link.is_sender)] = self

    @property
    def remote(self):
        return self.link.remote_source if self.link.is_receiver else self.link.remote_target

    def opened(self):
        until(lambda: self.is_open or self.client.is_gone, f"the attach of {self.link.name} was not answered")
        # A refusal comes with the answer or right behind it.
        terminus = self.remote
        if terminus.type == Terminus.UNSPECIFIED:
            self.ended()
        return self

    def ended(self, seconds=PATIENCE):
        """Waits for the peer's detach; what it said."""
        until(lambda: self.is_ended or self.client.is_gone, f"no detach of {self.link.name} came", seconds)
        return self.error

    def close(self):
        self.link.close()
        self.ended()
        self._forget()

    def detach(self):
        self.link.detach()
        self.ended()
        self._forget()

    def _forget(self):
        self.client.links.pop((self.link.name, self.link.is_sender), None)
        self.link.free()


class Sent:
    """A message on its way."""

    def __init__(self):
        self.state = self.error = None
        self.failed = self.undeliverable = False
        self.is_settled = False


class Sender(End):
    """A sending link. `unsettled` are the messages whose outcome has not come."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.unsettled = {}
        self.tags = itertools.count()

    @property
    def credit(self):
        return self.link.credit

    def put(self, message, settled=False):
        """Sends without waiting, credit or not. `message` may be encoded already."""
        tag = f"{next(self.tags)}"
        delivery = self.link.delivery(tag)
        sent = Sent()
        if not settled:
            self.unsettled[tag] = sent
        self.link.send(message.encode() if isinstance(message, Message) else bytes(message))
        self.link.advance()
        if settled:
            delivery.settle()
            sent.is_settled = True
        return sent

    def send(self, message, settled=False):
        """Sends as soon as there is credit, and waits for the outcome."""
        until(lambda: self.link.credit > self.link.queued or self.is_ended or self.client.is_gone,
              lambda: f"no credit on {self.link.name}: {self.error}")
        check(not self.is_ended and not self.client.is_gone, f"{self.link.name} ended: {self.error}")
        sent = self.put(message, settled)
        until(lambda: sent.is_settled or self.is_ended or self.client.is_gone, f"no outcome on {self.link.name}")
        return sent

    def accepted(self, message, settled=False):
        sent = self.send(message, settled)
        check(settled or sent.state == Delivery.ACCEPTED, f"on {self.link.name}: {sent.state} {sent.error}")

    def send_all(self, messages, settled=False):
        """Sends with the credit that comes, and waits until all are settled."""
        for message in messages:
            until(lambda: self.link.credit > 0 or self.is_ended or self.client.is_gone,
                  f"no credit on {self.link.name}")
            check(not self.is_ended and not self.client.is_gone, f"{self.link.name} ended: {self.error}")
            self.put(message, settled)
        until(lambda: not self.unsettled or self.client.is_gone, f"{len(self.unsettled)} are not settled")
        until(lambda: not self.client.connection.transport.pending() or self.client.is_gone, "not everything was sent")

    def on_delivery(self, delivery):
        sent = self.unsettled.get(delivery.tag)
        if sent is None:
            return
        if delivery.remote_state:
            sent.state = delivery.remote_state
            sent.error = Said(delivery.remote.condition)
            sent.failed, sent.undeliverable = delivery.remote.failed, delivery.remote.undeliverable
        if delivery.settled:
            sent.is_settled = True
            del self.unsettled[delivery.tag]
            delivery.settle()


class Received:
    """A message that has come, with its bytes."""

    def __init__(self, raw, delivery, settled):
        self.raw, self.delivery, self.settled = raw, delivery, settled

    @functools.cached_property
    def message(self):
        message = Message()
        message.decode(self.raw)
        return message

    @property
    def body(self):
        return body_of(self.message.body)

    def settle(self, state=Delivery.ACCEPTED, failed=None, undeliverable=None):
        if failed is not None:
            self.delivery.local.failed = failed
        if undeliverable is not None:
            self.delivery.local.undeliverable = undeliverable
        self.delivery.update(state)
        self.delivery.settle()


class Receiver(End):
    """A receiving link. Unless it holds, it accepts everything; `grants` renews the credit."""

    def __init__(self, client, link, holds=False, grants=0):
        super().__init__(client, link)
        self.holds, self.grants = holds, grants
        self.received = []
        if grants:
            link.flow(grants)

    @property
    def address(self):
        return self.link.remote_source.address

    def grant(self, count):
        self.link.flow(count)

    def on_delivery(self, delivery):
        link = self.link
        if delivery.aborted:
            delivery.settle()
        elif delivery.readable and not delivery.partial:
            raw = bytes(link.recv(delivery.pending)) if delivery.pending else b""
            link.advance()
            got = Received(raw, delivery, delivery.settled)
            if got.settled:
                delivery.settle()
            elif not self.holds:
                got.settle()
            self.received.append(got)
            if self.grants and link.credit < self.grants // 2 + 1:
                link.flow(self.grants - link.credit)

    def wait(self, count, seconds=PATIENCE):
        """Waits for a number of messages; these, taken away."""
        until(lambda: len(self.received) >= count or self.is_ended or self.client.is_gone,
              lambda: f"{len(self.received)} instead of {count} messages came on {self.link.name}", seconds)
        check(len(self.received) >= count, f"{self.link.name} ended with {len(self.received)} messages: {self.error}")
        taken, self.received = self.received[:count], self.received[count:]
        return taken

    def bodies(self, count):
        return [got.body for got in self.wait(count)]

    def nothing_more(self, seconds=0.2):
        rest(seconds)
        check(not self.received, f"{len(self.received)} messages too many on {self.link.name}")


def body_of(body):
    return bytes(body) if isinstance(body, memoryview) else body


class Client(Handler):
    """A connection. `name` is the container id."""

    def __init__(self, node, name=None, wait=True, url=None, **more):
        super().__init__()
        self.links = {}
        self.is_open = self.is_gone = self.was_closed = False
        self.error = Said(None)
        self.node = node
        self.name = name or f"client-{next(NUMBERS)}"
        url = url or f"amqp://127.0.0.1:{node.amqp_port}"
        self.connection = WORLD.connect(url, handler=self, reconnect=False, **more)
        # The open has not been written yet.
        self.connection.container = self.name
        if wait:
            until(lambda: self.is_open or self.is_gone, "the open was not answered")
            check(self.is_open and not self.is_gone, f"{self.name} was not connected: {self.error}")

    # What Proton calls.

    def on_connection_remote_open(self, event):
        self.is_open = True

    def on_connection_remote_close(self, event):
        self.error = Said(event.connection.remote_condition)
        self.was_closed = True
        if event.connection.state & Link.LOCAL_ACTIVE:
            event.connection.close()

    def on_transport_error(self, event):
        if not self.error.name:
            self.error = Said(event.transport.condition)

    def on_transport_tail_closed(self, event):
        self.is_gone = True

    def on_transport_closed(self, event):
        self.is_gone = True

    def _end(self, event):
        return self.links.get((event.link.name, event.link.is_sender))

    def on_link_remote_open(self, event):
        end = self._end(event)
        if end:
            end.is_open = True

    def on_link_remote_close(self, event):
        self._ended(event, True)

    def on_link_remote_detach(self, event):
        self._ended(event, False)

    def _ended(self, event, was_closed):
        end = self._end(event)
        if not end:
            return
        end.is_ended, end.was_closed = True, was_closed
        end.error = Said(event.link.remote_condition)
        if event.link.state & Link.LOCAL_ACTIVE:
            event.link.close() if was_closed else event.link.detach()

    def on_delivery(self, event):
        end = self._end(event)
        if end:
            end.on_delivery(event.delivery)

    # What tests call.

    def sender(self, address, name=None, **options):
        link = WORLD.create_sender(
            self.connection, address, name=name or f"link-{next(NUMBERS)}", handler=None, options=Options(**options))
        return Sender(self, link).opened()

    def receiver(self, address, name=None, grants=100, holds=False, dynamic=False, **options):
        link = WORLD.create_receiver(
            self.connection, address, name=name or f"link-{next(NUMBERS)}", dynamic=dynamic, options=Options(**options))
        return Receiver(self, link, holds, grants).opened()

    def refused(self, make, *arguments, **options):
        """Makes a link that must be refused; what the peer said."""
        end = make(self, *arguments, **options)
        error = end.ended()
        check(end.was_closed, f"{arguments}: detached instead of closed, {error}")
        check(error.name, f"{arguments}: refused without a reason")
        check(not self.is_gone, f"{arguments}: the connection is gone, {self.error}")
        end._forget()
        return error

    @property
    def properties(self):
        return {str(key): value for key, value in (self.connection.remote_properties or {}).items()}

    def close(self):
        self.connection.close()
        until(lambda: self.is_gone, f"{self.name}: the close was not answered")
        self.connection.handler = None


def text(topic=None, body="", **fields):
    """A message whose body is text (amqp-value)."""
    message = Message(body=body, **fields)
    if topic is not None:
        message.address = topic
    return message


def data(body, **fields):
    """A message with one data section."""
    return Message(body=body, inferred=True, **fields)
