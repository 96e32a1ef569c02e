/* Names that collide: topics whose hash, as docs/wire-format.md describes it, is 0 with a given key. Whoever knows the
 * key can make any number of them; the test asks what they cost a node.
 *
 *     collide KEY COUNT [SEED]           KEY in hexadecimal; one name a line, 24 characters
 *
 * Of a name of 24 bytes the first 16 go into the state, and the last 8 are one factor of a product: where they are the
 * state's own bits the product is 0, whatever the rest. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t folded(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)(product >> 64) ^ (uint64_t)product;
}

int main(int count, char **words) {
    if (count < 3) return 2;
    uint64_t key = strtoull(words[1], NULL, 16), seed = count > 3 ? strtoull(words[3], NULL, 10) : 0;
    long wanted = atol(words[2]);
    char name[25] = "flood/0000000000........";
    for (uint64_t number = seed << 40; wanted > 0; number++) {
        uint64_t rest = number, first, second, last;
        for (int place = 6; place < 16; place++, rest /= 62)
            name[place] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[rest % 62];
        memcpy(&first, name, 8);
        memcpy(&second, name + 8, 8);
        last = 0x8EBC6AF09C88C6E3u ^
               folded(first ^ 0xA0761D6478BD642Fu, second ^ key ^ 24 * 0x9E3779B97F4A7C15u);
        memcpy(name + 16, &last, 8);
        int is_text = 1;
        for (int place = 16; place < 24; place++) {
            char byte = name[place];
            if (byte <= 32 || byte >= 127 || strchr("+#*>/$", byte)) is_text = 0;
        }
        if (is_text) {
            puts(name);
            wanted--;
        }
    }
    return 0;
}
