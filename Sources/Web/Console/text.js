// Text and bytes: what several modules need, without the page.

/// The time of day with milliseconds, as the reader's clock shows it.
export function clock(date) {
  const two = (number) => String(number).padStart(2, "0");
  const milliseconds = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${milliseconds}`;
}

/// The bytes that Base64 text stands for.
export function decodeBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/// Bytes as pairs of hexadecimal digits, in groups of four bytes.
export function hex(bytes) {
  let text = "";
  for (let index = 0; index < bytes.length; index += 1) {
    if (index > 0) text += index % 4 === 0 ? "  " : " ";
    text += bytes[index].toString(16).padStart(2, "0");
  }
  return text;
}

/// A count with its noun.
export function count(number, one, many) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

/// A word for a POSIX shell.
export function shellWord(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/// An element with a class and children: nodes or text.
export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}
