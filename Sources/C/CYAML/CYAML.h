#ifndef APUS_CYAML_H
#define APUS_CYAML_H
#include <yaml.h>
#endif
