"""The closed world the multiple-choice questions ask about: a few hundred everyday facts, written for this project."""

from collections.abc import Mapping

COLOURS: Mapping[str, str] = {
    "banana": "yellow",
    "lemon": "yellow",
    "butter": "yellow",
    "tomato": "red",
    "strawberry": "red",
    "cherry": "red",
    "blood": "red",
    "grass": "green",
    "frog": "green",
    "cucumber": "green",
    "leaf": "green",
    "sky": "blue",
    "ocean": "blue",
    "jeans": "blue",
    "snow": "white",
    "milk": "white",
    "salt": "white",
    "coal": "black",
    "night": "black",
    "raven": "black",
    "carrot": "orange",
    "pumpkin": "orange",
    "chocolate": "brown",
    "bear": "brown",
    "elephant": "grey",
    "mouse": "grey",
    "flamingo": "pink",
    "pig": "pink",
}

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "an animal": ("dog", "horse", "sheep", "lion", "wolf", "monkey", "rabbit", "snake"),
    "a fruit": ("apple", "pear", "grape", "peach", "plum", "melon", "mango", "kiwi"),
    "a tool": ("hammer", "saw", "drill", "pliers", "wrench", "chisel", "rake", "shovel"),
    "a vehicle": ("car", "bus", "train", "truck", "boat", "tram", "bicycle", "plane"),
    "a sport": ("tennis", "football", "hockey", "golf", "rugby", "rowing", "boxing", "skiing"),
    "a drink": ("tea", "coffee", "juice", "water", "wine", "beer", "cocoa", "soda"),
    "an instrument": ("piano", "violin", "flute", "drum", "trumpet", "guitar", "harp", "cello"),
    "a piece of clothing": ("shirt", "coat", "sock", "hat", "dress", "scarf", "glove", "shoe"),
}

OPPOSITES: tuple[tuple[str, str], ...] = (
    ("hot", "cold"),
    ("big", "small"),
    ("fast", "slow"),
    ("old", "young"),
    ("light", "dark"),
    ("wet", "dry"),
    ("full", "empty"),
    ("hard", "soft"),
    ("high", "low"),
    ("open", "closed"),
    ("rich", "poor"),
    ("happy", "sad"),
    ("early", "late"),
    ("strong", "weak"),
    ("clean", "dirty"),
    ("loud", "quiet"),
    ("thick", "thin"),
    ("near", "far"),
    ("sweet", "bitter"),
    ("true", "false"),
)

YOUNG: Mapping[str, str] = {
    "dog": "puppy",
    "cat": "kitten",
    "cow": "calf",
    "horse": "foal",
    "sheep": "lamb",
    "lion": "cub",
    "hen": "chick",
    "duck": "duckling",
    "frog": "tadpole",
    "goat": "kid",
}

HOMES: Mapping[str, str] = {
    "bird": "nest",
    "bee": "hive",
    "horse": "stable",
    "spider": "web",
    "dog": "kennel",
    "fish": "water",
    "king": "palace",
    "farmer": "farm",
    "camel": "desert",
    "monk": "monastery",
}

LEGS: Mapping[str, str] = {
    "snake": "zero",
    "bird": "two",
    "hen": "two",
    "dog": "four",
    "cow": "four",
    "table": "four",
    "ant": "six",
    "bee": "six",
    "spider": "eight",
}

LEG_COUNTS: tuple[str, ...] = ("zero", "two", "four", "six", "eight")

BY_SIZE: tuple[str, ...] = (
    "atom",
    "ant",
    "coin",
    "mouse",
    "cat",
    "sheep",
    "cow",
    "elephant",
    "house",
    "castle",
    "mountain",
    "country",
    "planet",
    "galaxy",
)

SEQUENCES: Mapping[str, tuple[str, ...]] = {
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "month": (
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ),
}
